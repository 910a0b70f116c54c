"""A paged cache for CPUs, read by a kernel of ours up to each row's length and no further.

Keys are [P,K,B/16,H,16], values [P,K,B,H], one array per layer: whatever the kernel reads lies in
the order in which it does (kernels/cpu.cc), and it writes in place. Which pages a row has is the
host's business (rollout/pages.py). With this cache the policy's matrices are packed for CPUs, too
(models/packed.py). Everything is float32, on one device that uses all cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch import kernels
from jaxsearch.models.decoder import Attend, Size
from jaxsearch.rollout import memory

PAGED = True
PACKED = True
HEADS = 1


class Cache(NamedTuple):
  """`keys[l]` [P,K,B/16,H,16] and `values[l]` [P,K,B,H]."""

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
    self, pages_WN: jax.Array, length_W: jax.Array, active_W: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of one new token per active row, written at the row's length."""
    return self.extend(pages_WN, length_W, active_W.astype(jnp.int32))

  def extend(
    self, pages_RN: jax.Array, start_R: jax.Array, count_R: jax.Array
  ) -> Callable[[int], Attend]:
    """Attention of a chunk per lane, whose first `count_R` tokens are written from `start_R` on.

    All lanes are written before any of them attends: a later one may continue an earlier one.
    """

    def layer(index: int) -> Attend:
      def attend(q_RCQH: jax.Array, k_RCKH: jax.Array, v_RCKH: jax.Array) -> jax.Array:
        o_RCQH, self._keys[index], self._values[index] = kernels.attend(
          q_RCQH * q_RCQH.shape[-1] ** -0.5,
          k_RCKH,
          v_RCKH,
          self._keys[index],
          self._values[index],
          pages_RN=pages_RN,
          start_R=start_R,
          count_R=count_R,
        )
        return o_RCQH

      return attend

    return layer


def init(
  size: Size, rollout: config_lib.Rollout, replicas: int, time: int, dtype: jnp.dtype
) -> Cache:
  """A cache of zeros: `rollout.pages` pages a replica, or enough for rows of `time` tokens.

  Raises:
    UserError: the kernel cannot be compiled.
  """
  kernels.require()
  pages, block = memory.page_count(rollout, time) * replicas, rollout.block_tokens
  lanes = (pages, size.kv_heads, block // kernels.LANE, size.head_size, kernels.LANE)
  values = (pages, size.kv_heads, block, size.head_size)
  make = lambda shape: tuple(jnp.zeros(shape, dtype) for _ in range(size.layers))
  return Cache(make(lanes), make(values))
