"""The reference: one array per layer, read whole; layout, writes and attention are private here.

Keys are [S,K,H,T] and values [S,K,T,H], one array per layer. Both products of attention then
read the cache along its innermost axis, and unrolled layers let every write happen in place.
What lies at or beyond a row's length is finite and never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch.models import attention
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout.caches import _windows

PAGED = False
PACKED = False
HEADS = 1


class Cache(NamedTuple):
  """`keys[l]` [S,K,H,T], `values[l]` [S,K,T,H]."""

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
    del slots_S, active_S  # Everything is read, whoever is active.
    slots = jnp.arange(length_S.shape[0])

    def layer(index: int) -> Attend:
      def attend(q_S1QH: jax.Array, k_S1KH: jax.Array, v_S1KH: jax.Array) -> jax.Array:
        keys = self._keys[index].at[slots, :, :, length_S].set(k_S1KH[:, 0])
        values = self._values[index].at[slots, :, length_S].set(v_S1KH[:, 0])
        self._keys[index], self._values[index] = keys, values
        return _attend(q_S1QH, keys, values, length_S[:, None])

      return attend

    return layer

  def extend(
    self, slots_R: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on."""

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        C = q_RCQH.shape[1]
        keys, values = self._keys[index], self._values[index]
        new_RKHC, new_RKCH = k_RCKH.transpose(0, 2, 3, 1), v_RCKH.transpose(0, 2, 1, 3)
        for lane in range(slots_R.shape[0]):
          where = slots_R[lane], start_R[lane], count_R[lane]
          keys = _windows.write(keys, new_RKHC[lane : lane + 1], *where, axis=3)
          values = _windows.write(values, new_RKCH[lane : lane + 1], *where, axis=2)
        self._keys[index], self._values[index] = keys, values
        positions_RC = start_R[:, None] + jnp.arange(C)
        return _attend(q_RCQH, keys[slots_R], values[slots_R], positions_RC)

      return attend

    return layer


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """A cache of zeros for `rollout.slots` rows a replica, of `time` tokens."""
  slots = rollout.slots * replicas
  keys = (slots, size.kv_heads, size.head_size, time)
  values = (slots, size.kv_heads, time, size.head_size)
  return Cache(
    tuple(jnp.zeros(keys, dtype) for _ in range(size.layers)),
    tuple(jnp.zeros(values, dtype) for _ in range(size.layers)),
  )


def _attend(
  q_BCQH: jax.Array, k_BKHT: jax.Array, v_BKTH: jax.Array, position_BC: jax.Array
) -> jax.Array:
  B, C, Q, H = q_BCQH.shape
  K, T = v_BKTH.shape[1:3]
  q_BKGCH = (q_BCQH * H**-0.5).reshape(B, C, K, Q // K, H).transpose(0, 2, 3, 1, 4)
  seen = jnp.arange(T) <= position_BC[:, None, None, :, None]
  o_BKGCH = attention.attend(q_BKGCH, k_BKHT, v_BKTH, seen)
  return o_BKGCH.transpose(0, 3, 1, 2, 4).reshape(B, C, Q, H)
