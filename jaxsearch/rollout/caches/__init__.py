"""Key/value caches, a file each: `rollout.cache` names one.

A file defines `init(size, rollout, replicas, time, dtype)`, a pytree of arrays whose first axis is
the slot; `HEADS`, their axis of key/value heads; `Layers(cache)`, a program's view of it with
`decode` and `extend`, attention that writes as it reads; and `copy_rows`. What lies at or beyond a
row's length is finite and never seen.
"""
