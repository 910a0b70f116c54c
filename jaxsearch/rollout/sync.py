"""Weights from the learner to the sampler: one cast and reshard, then this host's own view.

The learner's parameters are split over all devices of all hosts. One jitted program casts them,
unstacks the layers and leaves every host with whole copies on its own devices, one per replica,
split over `tensor`. Those shards are then wrapped, without a copy, as arrays on the host's own
mesh. From there on no program of the sampler involves another host.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch.models import decoder
from jaxsearch.sharding import RULES
from jaxsearch.types import UserError


def sampling_mesh(training_mesh: Mesh, tensor: int) -> Mesh:
  """This host's devices as (replica, tensor), in the order that the training mesh has them.

  Raises:
    UserError: if `tensor` does not divide this host's devices.
  """
  devices = [d for d in training_mesh.devices.flat if d.process_index == jax.process_index()]
  if len(devices) % tensor:
    raise UserError(
      f'mesh.sample_tensor={tensor} does not divide the {len(devices)} devices of this host. '
      'Choose a divisor of it.'
    )
  return _mesh(np.array(devices, dtype=object).reshape(-1, tensor), ('replica', 'tensor'))


class WeightSync:
  """Turns training parameters into this host's sampling parameters."""

  def __init__(self, size: decoder.Size, training_mesh: Mesh, local_mesh: Mesh, dtype: Any):
    hosts = len({d.process_index for d in training_mesh.devices.flat})
    grid = training_mesh.devices.reshape(hosts, *local_mesh.devices.shape)
    everywhere = _mesh(grid, ('host', 'replica', 'tensor'))
    abstract = jax.eval_shape(lambda: decoder.init(jax.random.key(0), size))
    stacked = jax.tree_util.tree_map_with_path(lambda p, a: _spec(p, a, local_mesh), abstract)
    layers = tuple(_without_layers(stacked['layers']) for _ in range(size.layers))
    self._specs = {**stacked, 'layers': layers}
    self._local_mesh = local_mesh
    is_spec = lambda x: isinstance(x, PartitionSpec)
    places = jax.tree.map(lambda s: NamedSharding(everywhere, s), self._specs, is_leaf=is_spec)
    self._spread = jax.jit(
      lambda params: decoder.cast(decoder.unstack(params, size), dtype),
      out_shardings=places,
    )

  def __call__(self, params: decoder.Params) -> decoder.Params:
    """A collective: every host calls it; the result is local to each."""
    return jax.tree.map(self._wrap, self._spread(params), self._specs)

  def traced(self, params: decoder.Params) -> jax.stages.Traced:
    """The collective, to be lowered and looked at; `params` may be shapes and shardings."""
    return self._spread.trace(params)

  def abstract(self, params: decoder.Params, mesh: Mesh) -> decoder.Params:
    """Shapes and shardings of what a host is left with; `mesh` is like the host's own."""

    def local(leaf: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
      at = NamedSharding(mesh, spec)
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)

    return jax.tree.map(local, self._spread.eval_shape(params), self._specs)

  def _wrap(self, array: jax.Array, spec: PartitionSpec) -> jax.Array:
    shards = {shard.device: shard.data for shard in array.addressable_shards}
    return jax.make_array_from_single_device_arrays(
      array.shape,
      NamedSharding(self._local_mesh, spec),
      [shards[device] for device in self._local_mesh.devices.flat],
    )


def _mesh(grid: np.ndarray, names: tuple[str, ...]) -> Mesh:
  return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def _spec(path: Any, leaf: Any, mesh: Mesh) -> PartitionSpec:
  """Split over `tensor` where the training rules do and the size allows it, whole elsewhere."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  logical = next(axes for pattern, axes in decoder.AXES if re.fullmatch(pattern, name))
  split = [
    RULES[axis] == 'tensor' and n % mesh.shape['tensor'] == 0
    for axis, n in zip(logical, leaf.shape)
  ]
  return PartitionSpec(*('tensor' if s else None for s in split))


def _without_layers(specs: Any) -> Any:
  return jax.tree.map(
    lambda spec: PartitionSpec(*spec[1:]), specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
