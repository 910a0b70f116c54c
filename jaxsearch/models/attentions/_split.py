"""How a kernel that XLA cannot partition is run on a mesh."""

from __future__ import annotations

import jax
from jax.sharding import Mesh, PartitionSpec

from jaxsearch.models.decoder import Attend


def over(mesh: Mesh, attend: Attend) -> Attend:
  """`attend` on each device's own rows (axes data, fsdp) and heads (axis tensor) of the mesh.

  Nothing is exchanged: a query head lies where its key head lies, because `sharding` refuses a
  mesh whose tensor axis does not divide the key heads.
  """
  part = PartitionSpec(('data', 'fsdp'), None, 'tensor')
  rows = PartitionSpec(('data', 'fsdp'))

  def split(*arrays: jax.Array) -> jax.Array:
    specs = (part,) * 3 + (rows,) * (len(arrays) - 3)
    local = jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)
    return local(*arrays)

  return split
