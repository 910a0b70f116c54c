"""A cache cut into blocks of time, of which attention reads those that rows have reached.

An array per layer and block: no product reads a slice, which XLA would copy. Keys are [S,K,B,H] and
values [S,K,H,B], both as CPUs read them fastest (docs/performance.md). Softmax is accumulated from
block to block (arXiv 1805.02867). A block that a row has not reached changes nothing in it to the
bit, so it may be read or left out: a row's bits do not depend on how long the others are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch.models import attention
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout.caches import _entries, _windows
from jaxsearch.rollout.caches._entries import Entries

PAGED = False
PACKED = False
HEADS = 1


class Cache(NamedTuple):
  """`keys[l][b]` [S,K,B,H] and `values[l][b]` [S,K,H,B]: block b of layer l."""

  keys: tuple[tuple[Entries, ...], ...]
  values: tuple[tuple[Entries, ...], ...]


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
    del slots_S  # All of them, in order.
    live = jnp.where(active_S, length_S + 1, 0).max()

    def layer(index: int) -> Attend:
      def attend(q_S1QH: jax.Array, k_S1KH: jax.Array, v_S1KH: jax.Array) -> jax.Array:
        keys = self._keys[index] = _put(self._keys[index], k_S1KH[:, 0], length_S, axis=2)
        values = self._values[index] = _put(self._values[index], v_S1KH[:, 0], length_S, axis=3)
        S, _, Q, H = q_S1QH.shape
        K = k_S1KH.shape[2]
        q_SKRH = (q_S1QH * H**-0.5).reshape(S, K, Q // K, H)
        o_SKRH = _attend(q_SKRH, keys, values, length_S[:, None, None, None], live, lambda b: b)
        return o_SKRH.reshape(S, 1, Q, H)

      return attend

    return layer

  def extend(
    self, slots_R: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on.

    All lanes are written before any of them attends: a later one may continue an earlier one.
    """
    stop_R = jnp.where(count_R > 0, start_R + count_R, 0)

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        R, C, Q, H = q_RCQH.shape
        K = k_RCKH.shape[2]
        where = slots_R, start_R, count_R
        new_RKCH, new_RKHC = k_RCKH.transpose(0, 2, 1, 3), v_RCKH.transpose(0, 2, 3, 1)
        keys = self._keys[index] = _write(self._keys[index], new_RKCH, *where, axis=2)
        values = self._values[index] = _write(self._values[index], new_RKHC, *where, axis=3)
        q_RCKGH = (q_RCQH * H**-0.5).reshape(R, C, K, Q // K, H)
        q_RKNH = q_RCKGH.transpose(0, 2, 3, 1, 4).reshape(R, K, Q // K * C, H)

        def lane(r: jax.Array, o_RKNH: jax.Array) -> jax.Array:
          row = lambda block: jax.tree.map(
            lambda array: jax.lax.dynamic_index_in_dim(array, slots_R[r]), block
          )
          last_N1 = jnp.tile(start_R[r] + jnp.arange(C), Q // K)[:, None]
          q_1KNH = jax.lax.dynamic_index_in_dim(q_RKNH, r)
          o_1KNH = _attend(q_1KNH, keys, values, last_N1, stop_R[r], row)
          return jax.lax.dynamic_update_index_in_dim(o_RKNH, o_1KNH[0], r, 0)

        o_RKNH = jax.lax.fori_loop(0, R, lane, jnp.zeros_like(q_RKNH))
        o_RKGCH = o_RKNH.reshape(R, K, Q // K, C, H)
        return o_RKGCH.transpose(0, 3, 1, 2, 4).reshape(R, C, Q, H)

      return attend

    return layer


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """A cache of zeros for `rollout.slots` rows a replica, of at least `time` tokens."""
  slots, block = rollout.slots * replicas, rollout.block_tokens

  def make(*shape: int, axis: int) -> tuple[tuple[Entries, ...], ...]:
    array = lambda: _entries.zeros((slots, size.kv_heads, *shape), dtype, axis)
    one = lambda: tuple(array() for _ in range(-(-time // block)))
    return tuple(one() for _ in range(size.layers))

  return Cache(make(block, size.head_size, axis=3), make(size.head_size, block, axis=2))


def _attend(
  q_BKNH: jax.Array,
  keys: tuple[Entries, ...],
  values: tuple[Entries, ...],
  last: jax.Array,
  live: jax.Array,
  rows: Callable[[Entries], Entries],
) -> jax.Array:
  """Scaled queries over the blocks that begin before `live`; returns [B,K,N,H].

  `last`, which broadcasts to [B,K,N,1], is the last place that each query sees; `rows` picks the
  B rows of a block.
  """
  state = attention.nothing(q_BKNH)
  block = jax.tree.leaves(keys)[0].shape[2]
  take = lambda kept: _entries.unpack(rows(kept), q_BKNH.dtype)
  for start, k, v in zip(range(0, len(keys) * block, block), keys, values):
    seen = start + jnp.arange(block) <= last

    def read(
      state: attention.Sums, k: Entries = k, v: Entries = v, seen: jax.Array = seen
    ) -> attention.Sums:
      return attention.accumulate(state, q_BKNH, take(k), take(v), seen)

    state = jax.lax.cond(live > start, read, lambda state: state, state)
  return attention.settle(state, q_BKNH.dtype)


def _put(
  blocks: tuple[Entries, ...], new_SKH: jax.Array, at_S: jax.Array, axis: int
) -> tuple[Entries, ...]:
  """Writes a token per slot at its place along `axis`."""
  slots, data = jnp.arange(new_SKH.shape[0]), jax.tree.leaves(blocks)[0]
  new = _entries.pack(new_SKH, data.dtype, axis=2)
  written = []
  for number, block in enumerate(blocks):
    inside_S = at_S - number * data.shape[axis]
    # Behind the last entry, where nothing is written; below 0 would count from the end.
    inside_S = jnp.where(inside_S < 0, data.shape[axis], inside_S)
    place = (slots, *[slice(None)] * (axis - 1), inside_S)
    put = lambda array, one, at=place: array.at[at].set(one, mode='drop')
    written.append(jax.tree.map(put, block, new))
  return tuple(written)


def _write(
  blocks: tuple[Entries, ...],
  new_R: jax.Array,
  slots_R: jax.Array,
  start_R: jax.Array,
  count_R: jax.Array,
  axis: int,
) -> tuple[Entries, ...]:
  """Puts each lane's first `count_R` tokens into its row along `axis`, lane by lane, in place."""
  data = jax.tree.leaves(blocks)[0]
  packed_R = _entries.pack(new_R, data.dtype, axis=5 - axis)

  def lane(r: jax.Array, blocks: tuple[Entries, ...]) -> tuple[Entries, ...]:
    written = []
    for number, block in enumerate(blocks):
      offset = start_R[r] - number * data.shape[axis]
      write = lambda array, new_R, o=offset: _windows.write(
        array, jax.lax.dynamic_index_in_dim(new_R, r), slots_R[r], o, count_R[r], axis
      )
      written.append(jax.tree.map(write, block, packed_R))
    return tuple(written)

  return jax.lax.fori_loop(0, new_R.shape[0], lane, blocks)
