"""How keys and values are kept: as they are, in another float type, or as int8 with a scale.

int8 has one float32 scale for each token and head, by which the largest component becomes 127.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scaled(NamedTuple):
  """int8 `data`, and float32 `scale` of the same rank with 1 where the head's components are."""

  data: jax.Array
  scale: jax.Array


# An array, or a Scaled; trees of either are written and copied leaf by leaf.
Entries = jax.Array | Scaled


def zeros(shape: tuple[int, ...], dtype: jnp.dtype, axis: int) -> Entries:
  """Entries of nothing; `axis` holds a head's components."""
  if dtype != jnp.int8:
    return jnp.zeros(shape, dtype)
  scale = tuple(1 if i == axis else n for i, n in enumerate(shape))
  return Scaled(jnp.zeros(shape, jnp.int8), jnp.zeros(scale))


def pack(x: jax.Array, dtype: jnp.dtype, axis: int) -> Entries:
  """What is kept of `x`."""
  if dtype != jnp.int8:
    return x.astype(dtype)
  x = x.astype(jnp.float32)
  scale = jnp.abs(x).max(axis=axis, keepdims=True) / 127
  data = jnp.round(x / jnp.where(scale > 0, scale, 1.0))
  return Scaled(data.astype(jnp.int8), scale)


def unpack(entries: Entries, dtype: jnp.dtype) -> jax.Array:
  """What is left of it."""
  if isinstance(entries, Scaled):
    return (entries.data.astype(jnp.float32) * entries.scale).astype(dtype)
  return entries.astype(dtype)
