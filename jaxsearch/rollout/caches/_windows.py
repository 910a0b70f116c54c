"""Writing a stretch of tokens into one row of an array, in place."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def write(
  array: jax.Array,
  new: jax.Array,
  row: jax.Array,
  offset: jax.Array,
  count: jax.Array,
  axis: int,
) -> jax.Array:
  """Puts the first `count` of `new`'s tokens into `array[row]`, from `offset` on along `axis`.

  Args:
    array: rank 4, rows first.
    new: the same with one row, and C tokens along `axis`; C is at most the array's length there.
    row: int32.
    offset: int32; tokens that would lie before the array or behind it are left out.
    count: int32.
    axis: of time.
  """
  C, length = new.shape[axis], array.shape[axis]
  first = jnp.clip(offset, 0, length - C)  # Of a window inside the array.
  token_C = first - offset + jnp.arange(C)
  valid_C = (token_C >= 0) & (token_C < count)
  along = [C if i == axis else 1 for i in range(array.ndim)]
  at = [first if i == axis else row * (i == 0) for i in range(array.ndim)]
  old = jax.lax.dynamic_slice(array, at, new.shape)
  moved = jnp.take(new, token_C, axis=axis, mode='clip')
  kept = jnp.where(valid_C.reshape(along), moved, old)
  return jax.lax.dynamic_update_slice(array, kept, at)
