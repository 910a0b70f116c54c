"""Attention over whole sequences, for the learner, a file each: `policy.attention` names one.

A file defines `make(mesh)`, which returns attention as `attention.causal` defines it: q [B,T,Q,H],
k and v [B,T,K,H] -> [B,T,Q,H], where time t sees times up to t. Arrays are global ones of the
training mesh. All agree to rounding, gradients too (tests/test_backends.py). Where `SEGMENTS` is
true there may be a fourth argument, int32 [B,T]: a time then sees only those of its own segment.
"""
