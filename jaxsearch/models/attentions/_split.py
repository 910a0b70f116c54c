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
  return jax.shard_map(attend, mesh=mesh, in_specs=(part,) * 3, out_specs=part, check_vma=False)
