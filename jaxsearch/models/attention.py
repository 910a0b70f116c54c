"""Causal attention over whole sequences, for the learner; the cached form is in rollout/cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Finite, so that a row of masked logits gives a uniform distribution and not NaN.
MASKED = -1e30


def causal(q_BTQH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
  """Grouped-query attention in which time t sees times up to t; returns [B,T,Q,H].

  Rows are right-padded, so the causal mask alone keeps padding out of every true position.
  """
  B, T, Q, H = q_BTQH.shape
  K = k_BTKH.shape[2]
  q_BTKGH = q_BTQH.reshape(B, T, K, Q // K, H) * H**-0.5
  logits_BKGTS = jnp.einsum(
    'btkgh,bskh->bkgts', q_BTKGH, k_BTKH, preferred_element_type=jnp.float32
  )
  seen_TS = jnp.tril(jnp.ones((T, T), bool))
  weights = softmax(jnp.where(seen_TS, logits_BKGTS, MASKED)).astype(v_BTKH.dtype)
  return jnp.einsum('bkgts,bskh->btkgh', weights, v_BTKH).reshape(B, T, Q, H)


def softmax(logits: jax.Array) -> jax.Array:
  """Over the last axis, in float32; one place so that learner and sampler agree."""
  return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
