"""How a kernel that XLA cannot partition is run inside an engine program."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec


def split(
  function: Callable[..., jax.Array], axes: tuple[int | None, ...], kv_heads: int
) -> Callable[..., jax.Array]:
  """`function` on each device's own heads, where the program is split over `tensor`.

  Programs are manual over `replica` already (see engine): with `tensor` nothing is left to XLA.

  Args:
    function: of arrays; its result has its heads where its first argument has them.
    axes: of each argument, the axis of its heads, or None for one without heads.
    kv_heads: of the whole policy. Where `tensor` does not divide them, every device does all.
  """
  tensor = jax.sharding.get_abstract_mesh().shape.get('tensor')
  if tensor is None:  # Outside of a program, in a test.
    return function

  def part(axis: int | None) -> PartitionSpec:
    whole = axis is None or kv_heads % tensor
    return PartitionSpec() if whole else PartitionSpec(*[None] * axis, 'tensor')

  return jax.shard_map(
    function,
    in_specs=tuple(part(axis) for axis in axes),
    out_specs=part(axes[0]),
    axis_names={'tensor'},
    check_vma=False,
  )
