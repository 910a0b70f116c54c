"""A cache cut into blocks of time, of which attention reads those that rows have reached.

One array per layer and block, keys and values [S,K,H,B] both: no product reads a slice, which XLA
would copy, and values with time innermost are read twice as fast (docs/performance.md).
Softmax is accumulated from block to block (arXiv 1805.02867). A block that a row has not reached
changes nothing in it to the bit, so it may be read or left out: a row's bits do not depend on how
long the others are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.models import attention
from jaxsearch.models.decoder import Attend, Size


class Cache(NamedTuple):
  """`keys[l][b]` and `values[l][b]`: [S,K,H,B], block b of layer l."""

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
    slots = jnp.arange(length_S.shape[0])
    live = jnp.where(active_S, length_S + 1, 0).max()

    def layer(index: int) -> Attend:
      def put(blocks: tuple[jax.Array, ...], new_SKH: jax.Array) -> tuple[jax.Array, ...]:
        written = []
        for block, start in zip(blocks, _starts(blocks)):
          at_S = length_S - start
          # Behind the last entry, where nothing is written; below 0 would count from the end.
          at_S = jnp.where(at_S < 0, block.shape[-1], at_S)
          written.append(block.at[slots, :, :, at_S].set(new_SKH, mode='drop'))
        return tuple(written)

      def attend(q_S1QH: jax.Array, k_S1KH: jax.Array, v_S1KH: jax.Array) -> jax.Array:
        keys = self._keys[index] = put(self._keys[index], k_S1KH[:, 0])
        values = self._values[index] = put(self._values[index], v_S1KH[:, 0])
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
        keys = self._keys[index] = _write(self._keys[index], k_RCKH, *where)
        values = self._values[index] = _write(self._values[index], v_RCKH, *where)
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


def init(size: Size, slots: int, time: int, dtype: jnp.dtype, block: int) -> Cache:
  """A cache of zeros for `slots` rows of at least `time` tokens, in blocks of `block`."""
  shape = (slots, size.kv_heads, size.head_size, block)
  make = lambda: tuple(jnp.zeros(shape, dtype) for _ in range(-(-time // block)))
  return Cache(tuple(make() for _ in range(size.layers)), tuple(make() for _ in range(size.layers)))


def copy_rows(cache: Cache, sources_R: jax.Array, targets_R: jax.Array) -> Cache:
  """Copies whole rows, one lane after the other; source = target is a lane that does nothing."""

  def lane(index: jax.Array, arrays: Cache) -> Cache:
    def copy(array: jax.Array) -> jax.Array:
      row = jax.lax.dynamic_index_in_dim(array, sources_R[index], keepdims=True)
      return jax.lax.dynamic_update_index_in_dim(array, row, targets_R[index], 0)

    return jax.tree.map(copy, arrays)

  return jax.lax.fori_loop(0, sources_R.shape[0], lane, cache)


def _starts(blocks: tuple[jax.Array, ...]) -> range:
  """Place of each block's first token."""
  block = blocks[0].shape[-1]
  return range(0, len(blocks) * block, block)


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
  for k, v, start in zip(keys, values, _starts(keys)):
    seen = start + jnp.arange(k.shape[-1]) <= last

    def read(
      state: attention.Sums, k: jax.Array = k, v: jax.Array = v, seen: jax.Array = seen
    ) -> attention.Sums:
      return attention.accumulate(state, q_BKNH, rows(k), rows(v), seen)

    state = jax.lax.cond(live > start, read, lambda state: state, state)
  return attention.settle(state, q_BKNH.dtype)


def _write(
  blocks: tuple[jax.Array, ...],
  new_RCKH: jax.Array,
  slots_R: jax.Array,
  start_R: jax.Array,
  count_R: jax.Array,
) -> tuple[jax.Array, ...]:
  """Puts each lane's first `count_R` tokens into its row, lane after lane, in place."""
  C, (_, K, H, B) = new_RCKH.shape[1], blocks[0].shape
  new_RKHC = new_RCKH.transpose(0, 2, 3, 1)

  def lane(r: jax.Array, blocks: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    new_KHC = jax.lax.dynamic_index_in_dim(new_RKHC, r, keepdims=False)
    written = []
    for block, start in zip(blocks, _starts(blocks)):
      offset = start_R[r] - start
      first = jnp.clip(offset, 0, B - C)  # Of a window inside the block.
      token_C = first - offset + jnp.arange(C)
      valid_C = (token_C >= 0) & (token_C < count_R[r])
      at = (slots_R[r], 0, 0, first)
      old_1KHC = jax.lax.dynamic_slice(block, at, (1, K, H, C))
      moved_KHC = jnp.take(new_KHC, token_C, axis=-1, mode='clip')
      written.append(
        jax.lax.dynamic_update_slice(block, jnp.where(valid_C, moved_KHC, old_1KHC), at)
      )
    return tuple(written)

  return jax.lax.fori_loop(0, new_RCKH.shape[0], lane, blocks)
