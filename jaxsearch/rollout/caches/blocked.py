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

HEADS = 1


class Cache(NamedTuple):
  """`keys[l][b]` [S,K,B,H] and `values[l][b]` [S,K,H,B]: block b of layer l."""

  keys: tuple[tuple[jax.Array, ...], ...]
  values: tuple[tuple[jax.Array, ...], ...]


class Layers:
  """One program's view of a cache while it is traced: attention that writes as it reads."""

  def __init__(self, cache: Cache):
    self._keys, self._values = list(cache.keys), list(cache.values)

  @property
  def cache(self) -> Cache:
    return Cache(tuple(self._keys), tuple(self._values))

  def decode(self, length_S: jax.Array, active_S: jax.Array) -> Callable[[int], Attend]:
    """Attention of one new token per slot, written at the slot's length."""
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
          row = lambda block: jax.lax.dynamic_index_in_dim(block, slots_R[r])
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
  block = rollout.block_tokens

  def make(*shape: int) -> tuple[tuple[jax.Array, ...], ...]:
    array = lambda: jnp.zeros((rollout.slots * replicas, size.kv_heads, *shape), dtype)
    one = lambda: tuple(array() for _ in range(-(-time // block)))
    return tuple(one() for _ in range(size.layers))

  return Cache(make(block, size.head_size), make(size.head_size, block))


def copy_rows(cache: Cache, sources_R: jax.Array, targets_R: jax.Array) -> Cache:
  """Copies whole rows, one lane after the other; source = target is a lane that does nothing."""

  def lane(index: jax.Array, arrays: Cache) -> Cache:
    def copy(array: jax.Array) -> jax.Array:
      row = jax.lax.dynamic_index_in_dim(array, sources_R[index], keepdims=True)
      return jax.lax.dynamic_update_index_in_dim(array, row, targets_R[index], 0)

    return jax.tree.map(copy, arrays)

  return jax.lax.fori_loop(0, sources_R.shape[0], lane, cache)


def _attend(
  q_BKNH: jax.Array,
  keys: tuple[jax.Array, ...],
  values: tuple[jax.Array, ...],
  last: jax.Array,
  live: jax.Array,
  rows: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Scaled queries over the blocks that begin before `live`; returns [B,K,N,H].

  `last`, which broadcasts to [B,K,N,1], is the last place that each query sees; `rows` picks the
  B rows of a block.
  """
  state = attention.nothing(q_BKNH)
  block = keys[0].shape[2]
  for start, k, v in zip(range(0, len(keys) * block, block), keys, values):
    seen = start + jnp.arange(block) <= last

    def read(
      state: attention.Sums, k: jax.Array = k, v: jax.Array = v, seen: jax.Array = seen
    ) -> attention.Sums:
      return attention.accumulate(state, q_BKNH, rows(k), rows(v), seen)

    state = jax.lax.cond(live > start, read, lambda state: state, state)
  return attention.settle(state, q_BKNH.dtype)


def _put(
  blocks: tuple[jax.Array, ...], new_SKH: jax.Array, at_S: jax.Array, axis: int
) -> tuple[jax.Array, ...]:
  """Writes a token per slot at its place along `axis`."""
  slots, size = jnp.arange(new_SKH.shape[0]), blocks[0].shape[axis]
  written = []
  for number, block in enumerate(blocks):
    inside_S = at_S - number * size
    # Behind the last entry, where nothing is written; below 0 would count from the end.
    inside_S = jnp.where(inside_S < 0, size, inside_S)
    place = (slots, *[slice(None)] * (axis - 1), inside_S)
    written.append(block.at[place].set(new_SKH, mode='drop'))
  return tuple(written)


def _write(
  blocks: tuple[jax.Array, ...],
  new_R: jax.Array,
  slots_R: jax.Array,
  start_R: jax.Array,
  count_R: jax.Array,
  axis: int,
) -> tuple[jax.Array, ...]:
  """Puts each lane's first `count_R` tokens into its row along `axis`, lane by lane, in place."""
  C, B = new_R.shape[axis], blocks[0].shape[axis]
  along = [1] * 4
  along[axis] = C

  def lane(r: jax.Array, blocks: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    new = jax.lax.dynamic_index_in_dim(new_R, r)
    written = []
    for number, block in enumerate(blocks):
      offset = start_R[r] - number * B
      first = jnp.clip(offset, 0, B - C)  # Of a window inside the block.
      token_C = first - offset + jnp.arange(C)
      valid_C = (token_C >= 0) & (token_C < count_R[r])
      at = [slots_R[r], 0, 0, 0]
      at[axis] = first
      shape = (1, *(C if i == axis else n for i, n in enumerate(block.shape) if i))
      old = jax.lax.dynamic_slice(block, at, shape)
      moved = jnp.take(new, token_C, axis=axis, mode='clip')
      kept = jnp.where(valid_C.reshape(along), moved, old)
      written.append(jax.lax.dynamic_update_slice(block, kept, at))
    return tuple(written)

  return jax.lax.fori_loop(0, new_R.shape[0], lane, blocks)
