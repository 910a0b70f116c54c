"""Where arrays live: the training mesh, and the table from logical axes to mesh axes.

Two tables decide every parameter's place: the model family's `AXES` (path pattern -> logical axes)
and `RULES` (logical axis -> mesh axis). There is no catch-all: each leaf is matched exactly once.
Rows of a batch are split over `data` and `fsdp`; each host contributes its own contiguous block.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch.types import UserError

# Logical axis of a parameter -> mesh axis it is split over (None: not split).
RULES: Mapping[str | None, str | None] = {
  'layers': None,
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'hidden': 'tensor',
  'vocab': 'tensor',
  None: None,
}
# Files of models/attentions and rollout/caches that are written for one kind of device.
_ONLY = {'splash': 'tpu', 'ragged': 'tpu', 'native': 'cpu'}
_ROWS = PartitionSpec(('data', 'fsdp'))
# Bytes that hosts exchange at a time: a fixed number, so that one compiled program serves all.
_PIECE = 2**18


def open_mesh(config: config_lib.Config) -> Mesh:
  """The training mesh of a run, whose kernels have been written for these devices.

  Raises:
    UserError: as `make_mesh`, and if a kernel would meet devices that it is not for.
  """
  require_kernels(config)
  return make_mesh(config.mesh)


def require_kernels(config: config_lib.Config, platform: str = '') -> None:
  """Refuses kernels of other hardware than `platform`; empty: JAX's default devices.

  Raises:
    UserError: names the field.
  """
  platform = platform or jax.default_backend()
  for field, value, other in (
    ('policy.attention', config.policy.attention, 'xla'),
    ('rollout.cache', config.rollout.cache, 'paged'),
  ):
    if _ONLY.get(value, platform) != platform:
      raise UserError(
        f'{field} is {value!r}, a kernel for {_ONLY[value].upper()}s, but the devices of this run '
        f'are {platform.upper()}s. Take {other!r}, which runs everywhere.'
      )


def make_mesh(sizes: config_lib.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The training mesh (data, fsdp, tensor) over all devices of all hosts, `tensor` innermost.

  Raises:
    UserError: if the sizes do not multiply to the number of devices, or if `tensor` would cross
      the border between hosts.
  """
  devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
  names = ('data', 'fsdp', 'tensor')
  shape = [sizes.data, sizes.fsdp, sizes.tensor]
  asked = ', '.join(f'mesh.{name}={size}' for name, size in zip(names, shape))
  free = [i for i, size in enumerate(shape) if size == -1]
  fixed = int(np.prod([size for size in shape if size != -1]))
  if len(free) > 1 or any(size < 1 and size != -1 for size in shape):
    raise UserError(f'{asked}: sizes are 1 or more, and at most one is -1 (the devices left).')
  if len(devices) % fixed or (not free and fixed != len(devices)):
    raise UserError(
      f'{asked} does not divide the {len(devices)} devices of this run. The product of the sizes '
      f'must be {len(devices)}; set one of them to -1 to take what is left.'
    )
  for i in free:
    shape[i] = len(devices) // fixed
  per_host = sum(d.process_index == devices[0].process_index for d in devices)
  if per_host % shape[2]:
    raise UserError(
      f'mesh.tensor={shape[2]} does not divide the {per_host} devices of a host, so a tensor group '
      'would cross hosts. Choose a divisor of it, and split further with mesh.fsdp.'
    )
  grid = np.array(devices, dtype=object).reshape(shape)
  return Mesh(grid, names, axis_types=(AxisType.Auto,) * 3)


def shardings(tree: Any, axes: Sequence[tuple[str, tuple[str | None, ...]]], mesh: Mesh) -> Any:
  """One NamedSharding per leaf of `tree` (arrays or their shapes), by the two tables.

  Args:
    tree: parameters.
    axes: a family's `AXES`: pattern of the whole '/'-joined path -> logical axes.
    mesh: from `make_mesh`.

  Raises:
    UserError: lists every leaf that no pattern or several patterns match, whose rank differs, or
      whose size its mesh axis does not divide.
  """
  problems: list[str] = []

  def place(path: Any, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    matches = [(p, logical) for p, logical in axes if re.fullmatch(p, name)]
    if len(matches) != 1:
      found = f'{len(matches)} patterns: {[p for p, _ in matches]}' if matches else 'no pattern'
      problems.append(f'{name} {leaf.shape} is matched by {found}; it must be exactly one')
      return NamedSharding(mesh, PartitionSpec())
    logical = matches[0][1]
    if len(logical) != len(leaf.shape):
      problems.append(f'{name} {leaf.shape} has {len(leaf.shape)} axes, its pattern {logical}')
      return NamedSharding(mesh, PartitionSpec())
    spec = [RULES[axis] for axis in logical]
    for size, axis, mesh_axis in zip(leaf.shape, logical, spec):
      if mesh_axis is not None and size % mesh.shape[mesh_axis]:
        problems.append(
          f'{name} {leaf.shape}: {axis}={size} is not divisible by '
          f'mesh.{mesh_axis}={mesh.shape[mesh_axis]}'
        )
    return NamedSharding(mesh, PartitionSpec(*spec))

  result = jax.tree_util.tree_map_with_path(place, tree)
  if problems:
    raise UserError('The parameters cannot be placed on the mesh:\n  ' + '\n  '.join(problems))
  return result


def place_rows(tree: Any, mesh: Mesh) -> Any:
  """This host's rows [b, ...] of every leaf -> global arrays [b * hosts, ...] split over rows.

  Every host calls it with the same shapes; host 0's rows come first.

  Raises:
    UserError: if the rows of a host do not divide over its part of `data` and `fsdp`.
  """
  sharding = NamedSharding(mesh, _ROWS)
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  for leaf in jax.tree.leaves(tree):
    if leaf.shape[0] * jax.process_count() % shards:
      raise UserError(
        f'{leaf.shape[0]} rows on each of {jax.process_count()} hosts do not divide over '
        f'mesh.data * mesh.fsdp = {shards}. Change learner.tokens_per_microbatch or the mesh.'
      )
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
  )


def gather_json(value: Any) -> list[Any]:
  """Every host's JSON value, in the order of hosts. A collective: every host must call it."""
  return [json.loads(data.decode()) for data in _gather(json.dumps(value).encode())]


def gather_records(value: Any) -> list[Any]:
  """The same for records of `types`, which JSON does not hold."""
  if jax.process_count() == 1:
    return [value]
  return [pickle.loads(data) for data in _gather(pickle.dumps(value))]


def _gather(data: bytes) -> list[bytes]:
  if jax.process_count() == 1:
    return [data]
  lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
  pieces = -(-int(lengths.max()) // _PIECE)
  padded = np.zeros((pieces, _PIECE), np.uint8)
  padded.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
  gathered = [multihost_utils.process_allgather(piece) for piece in padded]
  rows = np.concatenate([rows.reshape(len(lengths), -1) for rows in gathered], axis=1)
  return [row[:n].tobytes() for row, n in zip(rows, lengths)]
