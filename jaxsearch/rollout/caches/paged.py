"""A cache in pages that rows hold as they need them: `rollout.pages` bounds them all together.

An array of pages per layer: keys [P,K,B,H], values [P,K,H,B]. Which pages a row has is the host's
business (rollout/pages.py); programs are told with every call. Attention gathers one page of every
row at a time and adds it up exactly as `blocked` does: with pages of the same size both give the
same bits. A page costs a copy more than a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch.models import attention
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout import memory
from jaxsearch.rollout.caches import _entries, _windows
from jaxsearch.rollout.caches._entries import Entries

PAGED = True
PACKED = False
HEADS = 1


class Cache(NamedTuple):
  """`keys[l]` [P,K,B,H] and `values[l]` [P,K,H,B]."""

  keys: tuple[Entries, ...]
  values: tuple[Entries, ...]


class Layers:
  """One program's view of a cache while it is traced: attention that writes as it reads."""

  def __init__(self, cache: Cache):
    self._keys, self._values = list(cache.keys), list(cache.values)

  @property
  def cache(self) -> Cache:
    return Cache(tuple(self._keys), tuple(self._values))

  def decode(
    self, pages_WN: jax.Array, length_W: jax.Array, active_W: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of one new token per row, written at the row's length; idle rows write waste."""
    live = jnp.where(active_W, length_W + 1, 0).max()

    def layer(index: int) -> Attend:
      def attend(q_W1QH: jax.Array, k_W1KH: jax.Array, v_W1KH: jax.Array) -> jax.Array:
        place = pages_WN, length_W, active_W
        keys = self._keys[index] = _put(self._keys[index], k_W1KH[:, 0], *place, axis=2)
        values = self._values[index] = _put(self._values[index], v_W1KH[:, 0], *place, axis=3)
        W, _, Q, H = q_W1QH.shape
        K = k_W1KH.shape[2]
        q_WKGH = (q_W1QH * H**-0.5).reshape(W, K, Q // K, H)
        last = length_W[:, None, None, None]
        o_WKGH = _attend(q_WKGH, keys, values, pages_WN, last, live)
        return o_WKGH.reshape(W, 1, Q, H)

      return attend

    return layer

  def extend(
    self, pages_RN: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on.

    All lanes are written before any of them attends: a later one may continue an earlier one.
    """
    stop_R = jnp.where(count_R > 0, start_R + count_R, 0)

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        R, C, Q, H = q_RCQH.shape
        K = k_RCKH.shape[2]
        where = pages_RN, start_R, count_R
        new_RKCH, new_RKHC = k_RCKH.transpose(0, 2, 1, 3), v_RCKH.transpose(0, 2, 3, 1)
        keys = self._keys[index] = _write(self._keys[index], new_RKCH, *where, axis=2)
        values = self._values[index] = _write(self._values[index], new_RKHC, *where, axis=3)
        q_RCKGH = (q_RCQH * H**-0.5).reshape(R, C, K, Q // K, H)
        q_RKNH = q_RCKGH.transpose(0, 2, 3, 1, 4).reshape(R, K, Q // K * C, H)

        def lane(r: jax.Array, o_RKNH: jax.Array) -> jax.Array:
          last_N1 = jnp.tile(start_R[r] + jnp.arange(C), Q // K)[:, None]
          one = lambda array: jax.lax.dynamic_index_in_dim(array, r)
          o_1KNH = _attend(one(q_RKNH), keys, values, one(pages_RN), last_N1, stop_R[r])
          return jax.lax.dynamic_update_index_in_dim(o_RKNH, o_1KNH[0], r, 0)

        o_RKNH = jax.lax.fori_loop(0, R, lane, jnp.zeros_like(q_RKNH))
        o_RKGCH = o_RKNH.reshape(R, K, Q // K, C, H)
        return o_RKGCH.transpose(0, 3, 1, 2, 4).reshape(R, C, Q, H)

      return attend

    return layer


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """A cache of zeros: `rollout.pages` pages a replica, or enough for rows of `time` tokens."""
  pages, block = memory.page_count(rollout, time) * replicas, rollout.block_tokens

  def make(*shape: int, axis: int) -> tuple[Entries, ...]:
    one = lambda: _entries.zeros((pages, size.kv_heads, *shape), dtype, axis)
    return tuple(one() for _ in range(size.layers))

  return Cache(make(block, size.head_size, axis=3), make(size.head_size, block, axis=2))


def _attend(
  q_BKNH: jax.Array,
  keys: Entries,
  values: Entries,
  pages_BN: jax.Array,
  last: jax.Array,
  live: jax.Array,
) -> jax.Array:
  """Scaled queries over the rows' pages that begin before `live`; returns [B,K,N,H].

  `last`, which broadcasts to [B,K,N,1], is the last place that each query sees.
  """
  block = jax.tree.leaves(keys)[0].shape[2]

  def read(number: jax.Array, state: attention.Sums) -> attention.Sums:
    page_B = jax.lax.dynamic_index_in_dim(pages_BN, number, axis=1, keepdims=False)
    take = lambda kept: _entries.unpack(jax.tree.map(lambda a: a[page_B], kept), q_BKNH.dtype)
    seen = number * block + jnp.arange(block) <= last
    return attention.accumulate(state, q_BKNH, take(keys), take(values), seen)

  state = jax.lax.fori_loop(0, -(-live // block), read, attention.nothing(q_BKNH))
  return attention.settle(state, q_BKNH.dtype)


def _put(
  kept: Entries,
  new_WKH: jax.Array,
  pages_WN: jax.Array,
  at_W: jax.Array,
  active_W: jax.Array,
  axis: int,
) -> Entries:
  """Writes a token per row at its place along `axis`."""
  data = jax.tree.leaves(kept)[0]
  block = data.shape[axis]
  page_W = jnp.take_along_axis(pages_WN, (at_W // block)[:, None], axis=1)[:, 0]
  place = (jnp.where(active_W, page_W, 0), *[slice(None)] * (axis - 1), at_W % block)
  new = _entries.pack(new_WKH, data.dtype, axis=2)
  return jax.tree.map(lambda array, one: array.at[place].set(one), kept, new)


def _write(
  kept: Entries,
  new_R: jax.Array,
  pages_RN: jax.Array,
  start_R: jax.Array,
  count_R: jax.Array,
  axis: int,
) -> Entries:
  """Puts each lane's first `count_R` tokens into its pages along `axis`, lane by lane, in place."""
  block = jax.tree.leaves(kept)[0].shape[axis]
  packed_R = _entries.pack(new_R, jax.tree.leaves(kept)[0].dtype, axis=5 - axis)

  def lane(r: jax.Array, kept: Entries) -> Entries:
    for spill in (0, 1):  # A chunk is no longer than a page, so it lies in at most two.
      number = start_R[r] // block + spill
      offset = start_R[r] - number * block
      page = pages_RN[r, jnp.minimum(number, pages_RN.shape[1] - 1)]
      write = lambda array, new_R, o=offset, p=page: _windows.write(
        array, jax.lax.dynamic_index_in_dim(new_R, r), p, o, count_R[r], axis
      )
      kept = jax.tree.map(write, kept, packed_R)
    return kept

  return jax.lax.fori_loop(0, new_R.shape[0], lane, kept)
