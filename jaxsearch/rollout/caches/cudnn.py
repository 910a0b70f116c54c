"""A cache for GPUs, read by cuDNN's fused attention up to each row's length and no further.

Keys and values are [S,T,K,H], one array per layer: the one layout that
`jax.nn.dot_product_attention` takes, so that nothing is turned or copied on the way. Elsewhere, and
in float32, its XLA implementation does the same (see models/attentions/cudnn).

Both of cuDNN's causal masks begin at the first key, not at a row's length. So a chunk that is
appended brings a mask of its own, which cuDNN adds to the logits as a large negative number. That
alone would not hide what another row left behind, which may be larger: keys at and beyond a row's
new length are kept out by the length, and the mask only orders the row's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch.models.attentions import cudnn
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout.caches import _heads

PAGED = False
PACKED = False
HEADS = 2
# Rows of the mask, and of keys, begin at whole multiples of this many tokens.
_ALIGNED = 64


class Cache(NamedTuple):
  """`keys[l]` and `values[l]`, both [S,T,K,H]."""

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]


class Layers:
  """One program's view of a cache while it is traced: attention that writes as it reads."""

  def __init__(self, cache: Cache):
    self._keys, self._values = list(cache.keys), list(cache.values)

  @property
  def cache(self) -> Cache:
    return Cache(tuple(self._keys), tuple(self._values))

  def decode(
    self, slots_S: jax.Array, length_S: jax.Array, active_S: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of one new token per slot, written at the slot's length."""
    # Of a row that does not decode, one key is read.
    stop_S = jnp.where(active_S, length_S + 1, 1)

    def layer(index: int) -> Attend:
      def attend(q_S1QH: jax.Array, k_S1KH: jax.Array, v_S1KH: jax.Array) -> jax.Array:
        keys, values = self._put(index, (slots_S, length_S), k_S1KH[:, 0], v_S1KH[:, 0])
        S, _, Q, H = q_S1QH.shape
        K = k_S1KH.shape[2]
        # The queries that share a key head stand as so many times: all of them see the same keys,
        # which are then read once and not once for each.
        q_SGKH = q_S1QH.reshape(S, K, Q // K, H).swapaxes(1, 2)
        o_SGKH = _attend(q_SGKH, keys, values, stop_S)
        return o_SGKH.swapaxes(1, 2).reshape(S, 1, Q, H)

      return attend

    return layer

  def extend(
    self, slots_R: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on."""

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        C, T = q_RCQH.shape[1], self._keys[index].shape[1]
        at_RC = start_R[:, None] + jnp.arange(C)
        # Behind the last entry, where nothing is written.
        place_RC = jnp.where(jnp.arange(C) < count_R[:, None], at_RC, T)
        keys, values = self._put(index, (slots_R[:, None], place_RC), k_RCKH, v_RCKH)
        # No row of logits may be without a key.
        stop_R = start_R + jnp.maximum(count_R, 1)
        seen_R1CT = jnp.arange(T) <= at_RC[:, None, :, None]
        return _attend(q_RCQH, keys[slots_R], values[slots_R], stop_R, seen_R1CT)

      return attend

    return layer

  def _put(
    self, index: int, at: tuple[jax.Array, jax.Array], k: jax.Array, v: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    self._keys[index] = self._keys[index].at[at].set(k, mode='drop')
    self._values[index] = self._values[index].at[at].set(v, mode='drop')
    return self._keys[index], self._values[index]


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """A cache of zeros for `rollout.slots` rows a replica, of at least `time` tokens."""
  time = -(-time // _ALIGNED) * _ALIGNED
  shape = (rollout.slots * replicas, time, size.kv_heads, size.head_size)
  make = lambda: tuple(jnp.zeros(shape, dtype) for _ in range(size.layers))
  return Cache(make(), make())


def _attend(
  q_BCQH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  stop_B: jax.Array,
  seen_B1CT: jax.Array | None = None,
) -> jax.Array:
  """Queries over the keys before `stop_B` that they see; returns [B,C,Q,H]."""
  chosen = cudnn.implementation(q_BCQH.dtype)

  def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, stop: jax.Array, *seen: jax.Array
  ) -> jax.Array:
    return jax.nn.dot_product_attention(
      q,
      k,
      v,
      mask=seen[0] if seen else None,
      key_value_seq_lengths=stop,
      implementation=chosen,
    )

  arrays = (q_BCQH, k_BTKH, v_BTKH, stop_B) + (() if seen_B1CT is None else (seen_B1CT,))
  axes = (2, 2, 2) + (None,) * (len(arrays) - 3)
  return _heads.split(attend, axes, k_BTKH.shape[2])(*arrays)
