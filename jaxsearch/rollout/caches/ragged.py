"""A paged cache for TPUs, read by the ragged paged attention kernel that ships with JAX.

Keys and values are one array per layer, [P,B,2K,H]: P pages of B tokens, in which key and value of
a head lie next to each other, as the kernel reads them in one transfer. Which pages a row has is
the host's business (rollout/pages.py); programs are told with every call, page 0 is nobody's.

The kernel takes heads of whole 128 lanes: smaller ones are filled up with zeros, which is what they
cost in a TPU's memory anyway. It runs on TPUs only; tests interpret it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import ragged_paged_attention as kernel

from jaxsearch import config as config_lib
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout import memory
from jaxsearch.rollout.caches import _heads

PAGED = True
PACKED = False
HEADS = 2
_LANES = 128
# Of one step of the kernel: fixed numbers, so that a row's bits do not depend on tuning tables.
_KEYS, _QUERIES = 512, 32


class Cache(NamedTuple):
  """`pages[l]` [P,B,2K,H]."""

  pages: tuple[jax.Array, ...]


class Layers:
  """One program's view of a cache while it is traced: attention that writes as it reads."""

  def __init__(self, cache: Cache):
    self._pages = list(cache.pages)

  @property
  def cache(self) -> Cache:
    return Cache(tuple(self._pages))

  def decode(
    self, pages_WN: jax.Array, length_W: jax.Array, active_W: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of one new token per active row, written at the row's length."""
    place = self._places(pages_WN, length_W[:, None], active_W[:, None])
    # Of a row that does not decode, one key is read: the kernel has no row without.
    stop_W = jnp.where(active_W, length_W + 1, 1)

    def layer(index: int) -> Attend:
      def attend(q_W1QH: jax.Array, k_W1KH: jax.Array, v_W1KH: jax.Array) -> jax.Array:
        pages = self._put(index, place, k_W1KH, v_W1KH)
        return _attend(q_W1QH, pages, stop_W, pages_WN)

      return attend

    return layer

  def extend(
    self, pages_RN: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on.

    All lanes are written before any of them attends: a later one may continue an earlier one.
    """

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        C = q_RCQH.shape[1]
        at_RC = start_R[:, None] + jnp.arange(C)
        place = self._places(pages_RN, at_RC, jnp.arange(C) < count_R[:, None])
        pages = self._put(index, place, k_RCKH, v_RCKH)
        # All lanes are C queries long: then a lane's place in the kernel's blocks is fixed. Those
        # behind its tokens see keys that are not the row's, and nobody reads what they make of it.
        return _attend(q_RCQH, pages, start_R + C, pages_RN)

      return attend

    return layer

  def _places(
    self, pages_BN: jax.Array, at_BT: jax.Array, written_BT: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """(page, token in it) of each entry; behind the last page where nothing is written."""
    P, B = self._pages[0].shape[:2]
    page_BT = jnp.take_along_axis(pages_BN, at_BT // B, axis=1)
    return jnp.where(written_BT, page_BT, P), at_BT % B

  def _put(
    self, index: int, place: tuple[jax.Array, jax.Array], k_BTKH: jax.Array, v_BTKH: jax.Array
  ) -> jax.Array:
    B, T, K, _ = k_BTKH.shape
    both = _fill(jnp.stack([k_BTKH, v_BTKH], axis=3)).reshape(B, T, 2 * K, -1)
    self._pages[index] = self._pages[index].at[place].set(both, mode='drop')
    return self._pages[index]


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """Pages of zeros: `rollout.pages` a replica, or enough for rows of `time` tokens."""
  lanes = -(-size.head_size // _LANES) * _LANES
  pages = memory.page_count(rollout, time) * replicas
  shape = (pages, rollout.block_tokens, 2 * size.kv_heads, lanes)
  return Cache(tuple(jnp.zeros(shape, dtype) for _ in range(size.layers)))


def _fill(x: jax.Array) -> jax.Array:
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % _LANES)])


def _attend(
  q_BCQH: jax.Array, pages: jax.Array, stop_B: jax.Array, table_BN: jax.Array
) -> jax.Array:
  """The last C positions before `stop_B` of each row; returns [B,C,Q,H]."""
  B, C, Q, H = q_BCQH.shape

  def attend(
    q_NQH: jax.Array, pages: jax.Array, stop_B: jax.Array, table_BN: jax.Array
  ) -> jax.Array:
    return kernel.ragged_paged_attention(
      q_NQH,
      pages,
      stop_B,
      table_BN,
      jnp.arange(B + 1, dtype=jnp.int32) * C,
      jnp.full(1, B, jnp.int32),
      sm_scale=H**-0.5,
      num_kv_pages_per_block=max(1, min(table_BN.shape[1], _KEYS // pages.shape[1])),
      num_queries_per_block=min(_QUERIES, q_NQH.shape[0]),
    )

  arrays = (_fill(q_BCQH).reshape(B * C, Q, -1), pages, stop_B, table_BN)
  split = _heads.split(attend, (1, 2, None, None), pages.shape[2] // 2)
  return split(*arrays).reshape(B, C, Q, -1)[..., :H]
