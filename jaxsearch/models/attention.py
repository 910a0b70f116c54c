"""Attention: over whole sequences, for the learner, and its parts, for the caches of rollout/."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a row of masked logits gives a uniform distribution and not NaN.
MASKED = -1e30
# Queries are taken in blocks that see only the keys up to their own end: the upper triangle is
# never computed and no [T,T] array exists. On two CPU cores, T = 512: 2.3 times faster.
_BLOCK = 128


def causal(
  q_BTQH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  segments_BT: jax.Array | None = None,
) -> jax.Array:
  """Grouped-query attention in which time t sees times up to t; returns [B,T,Q,H].

  Rows are right-padded, so the causal mask alone keeps padding out of every true position. With
  `segments_BT` a time sees only those of its own segment.
  """
  B, T, Q, H = q_BTQH.shape
  K = k_BTKH.shape[2]
  q_BKGTH = (q_BTQH * H**-0.5).reshape(B, T, K, Q // K, H).transpose(0, 2, 3, 1, 4)
  k_BKHT, v_BKTH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
  blocks = []
  for start in range(0, T, _BLOCK):
    stop = min(start + _BLOCK, T)
    seen = jnp.tril(jnp.ones((stop - start, stop), bool), start)
    if segments_BT is not None:
      same_BTS = segments_BT[:, start:stop, None] == segments_BT[:, None, :stop]
      seen = (seen & same_BTS)[:, None, None]
    block = (q_BKGTH[:, :, :, start:stop], k_BKHT[..., :stop], v_BKTH[:, :, :stop])
    blocks.append(attend(*block, seen))
  o_BKGTH = jnp.concatenate(blocks, axis=3)
  return o_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, Q, H)


def attend(q_BKGTH: jax.Array, k_BKHT: jax.Array, v_BKTH: jax.Array, seen: jax.Array) -> jax.Array:
  """Softmax attention of already scaled queries, in float32; `seen` broadcasts to [B,K,G,T,S].

  The one place where attention is computed, so that learner and sampler agree.
  """
  logits = jnp.einsum('bkgth,bkhs->bkgts', q_BKGTH, k_BKHT, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(jnp.where(seen, logits, MASKED), axis=-1).astype(v_BKTH.dtype)
  return jnp.einsum('bkgts,bksh->bkgth', weights, v_BKTH)


class Sums(NamedTuple):
  """Softmax attention over some of the keys, in float32 (arXiv 1805.02867).

  Attributes:
    top: [B,K,N,1], the largest logit so far.
    weight: [B,K,N,1], sum of exp(logit - top).
    values: [B,K,H,N], sum of exp(logit - top) * value.
  """

  top: jax.Array
  weight: jax.Array
  values: jax.Array


def nothing(q_BKNH: jax.Array) -> Sums:
  """Before the first key."""
  B, K, N, H = q_BKNH.shape
  return Sums(jnp.full((B, K, N, 1), MASKED), jnp.zeros((B, K, N, 1)), jnp.zeros((B, K, H, N)))


def accumulate(
  sums: Sums, q_BKNH: jax.Array, k_BKSH: jax.Array, v_BKHS: jax.Array, seen: jax.Array
) -> Sums:
  """Adds keys and values; `seen` broadcasts to [B,K,N,S].

  Once a query has seen a key, keys that it does not see change no bit of its sums.
  """
  # Written so that the longer side comes first: XLA multiplies it twice as fast on CPUs.
  logits = jnp.einsum('bksh,bknh->bksn', k_BKSH, q_BKNH, preferred_element_type=jnp.float32)
  logits = jnp.where(seen, logits.swapaxes(-1, -2), MASKED)
  top = jnp.maximum(sums.top, logits.max(axis=-1, keepdims=True))
  weights, fade = jnp.exp(logits - top), jnp.exp(sums.top - top)
  added = jnp.einsum(
    'bkhs,bkns->bkhn', v_BKHS, weights.astype(v_BKHS.dtype), preferred_element_type=jnp.float32
  )
  return Sums(
    top,
    sums.weight * fade + weights.sum(axis=-1, keepdims=True),
    sums.values * fade.swapaxes(-1, -2) + added,
  )


def settle(sums: Sums, dtype: jnp.dtype) -> jax.Array:
  """The attention [B,K,N,H]; finite where nothing was added."""
  weight = jnp.where(sums.weight > 0, sums.weight, 1.0)
  return (sums.values.swapaxes(-1, -2) / weight).astype(dtype)
