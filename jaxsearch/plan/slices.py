"""Devices that this machine does not have: slices of TPUs, and stand-ins for GPUs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import NamedTuple

import jax

from jaxsearch import plugins
from jaxsearch.plan.chips import GPUS, TPUS, Chip
from jaxsearch.types import UserError


class Slice(NamedTuple):
  """What is planned for.

  Attributes:
    name: as the user calls it.
    chip: of all its devices.
    devices: of a topology, for which programs can be compiled; of GPUs, as many CPU devices,
      which only say how many there are.
    host: as many devices as one host has, in the order of the first one's. What runs on a host
      alone is compiled for a slice of this size: the compiler refuses a part of a larger one.
  """

  name: str
  chip: Chip
  devices: list[jax.Device]
  host: list[jax.Device]


def tpus(name: str) -> Slice:
  """The slice called `name`, such as v5p:4x4x4; needs the TPU compiler, no TPU.

  Raises:
    UserError: the compiler is not installed, or it knows no such slice.
  """
  kind, _, shape = name.partition(':')
  if kind not in TPUS or not all(part.isdecimal() for part in shape.split('x')):
    raise UserError(
      f'--topology is {name!r}; allowed: KIND:AxB or KIND:AxBxC, as '
      f'{", ".join(chip.example for chip in TPUS.values())}.{plugins.nearest(kind, TPUS)}'
    )
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      f'--topology={name} needs the compiler for TPUs, which is not installed (a TPU is not '
      'needed). `pip install "jax[tpu]"`, or launch/install.sh test,tpu, brings it.'
    )
  # Several processes may compile, since none has a TPU; and what the compiler would otherwise ask a
  # TPU's machine for, and complain if there is none.
  for variable, value in (
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_ACCELERATOR_TYPE', f'{kind}-8'),
  ):
    os.environ.setdefault(variable, value)
  devices = _topology(name, kind)
  corners = [device.coords for device in devices if device.process_index == 0]
  sides = [1 + max(side) - min(side) for side in zip(*corners, strict=True)]
  of_host = 'x'.join(map(str, sides[: 1 + shape.count('x')]))
  return Slice(name, TPUS[kind], devices, _topology(f'{kind}:{of_host}', kind))


def gpus(count: int, kind: str) -> Slice:
  """`count` GPUs of one machine; more than one in a process whose JAX has not started yet.

  Raises:
    UserError: there is no such kind, or JAX has started with fewer devices.
  """
  if kind not in GPUS:
    raise UserError(f'--chip is {kind!r}; allowed: {", ".join(GPUS)}.{plugins.nearest(kind, GPUS)}')
  with contextlib.suppress(RuntimeError):  # It has started.
    jax.config.update('jax_num_cpu_devices', count)
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise UserError(f'--devices is {count}, but JAX started with {len(devices)}: unset XLA_FLAGS.')
  return Slice(f'{count} {kind}', GPUS[kind], devices[:count], devices[:count])


def _topology(name: str, kind: str) -> list[jax.Device]:
  from jax.experimental import topologies

  # Both cores of a v4 chip as one device, which is how it runs.
  options = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
  try:
    return list(topologies.get_topology_desc(name, platform='tpu', **options).devices)
  except (jax.errors.JaxRuntimeError, RuntimeError) as error:
    raise UserError(_refusal(name, kind, str(error))) from error


def _refusal(name: str, kind: str, error: str) -> str:
  reason = error.strip().splitlines()[0].rstrip('.')
  return (
    f'--topology is {name!r}, which the TPU compiler refuses: {reason}. Allowed are the shapes in '
    f'which {kind} is made of whole hosts, as {TPUS[kind].example}.'
  )
