"""What a compiled program moves: bytes between a chip and its memory, and between chips."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from jaxsearch.plan import _groups
from jaxsearch.plan.hlo import Computation, Instruction, Program

_COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
# What a device sends in a ring of n, of the bytes of the whole array.
_SENT = {
  'all-gather': lambda n: (n - 1) / n,
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'reduce-scatter': lambda n: (n - 1) / n,
  'all-to-all': lambda n: (n - 1) / n,
  'collective-permute': lambda n: 1.0,
}
# Instructions that move nothing, or whose parts are counted where they run.
_STILL = (
  *('parameter', 'constant', 'iota', 'partition-id', 'replica-id', 'after-all', 'opt-barrier'),
  *('tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'async-start'),
  'async-update',
)
# Instructions whose result is their operand in another form.
_SAME = ('bitcast', 'convert', 'copy', 'reshape')
# Which operand of an instruction is written into its first one.
_IN_PLACE = {'dynamic-update-slice': 1, 'scatter': 2}


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction by which devices talk.

  Attributes:
    kind: all-gather, all-reduce, reduce-scatter, all-to-all, collective-permute.
    shapes: of one device's part of the larger side: what is gathered, summed or scattered.
    size: bytes of these.
    times: how often it runs.
    groups: of devices that talk, as their places in the flattened mesh.
    axes: of the mesh that a group stretches over, joined by '+'.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  size: float
  times: float
  groups: tuple[tuple[int, ...], ...]
  axes: str

  @property
  def sent(self) -> float:
    """Bytes that a device sends, all times together."""
    return self.times * self.size * _SENT[self.kind](len(self.groups[0]))


def collectives(program: Program, mesh: Mesh) -> list[Collective]:
  """Every collective of a program that runs on `mesh`."""
  found = []
  for times, name, instruction in program.walk(fused=True):
    kind = instruction.kind.removesuffix('-start')
    if kind not in _COLLECTIVES:
      continue
    computation = program.computations[name]
    groups = _groups.parse(instruction.text, mesh.size)
    arrays = instruction.arrays
    if instruction.kind == 'all-gather-start':  # What is given, then what is gathered.
      arrays = arrays[len(arrays) // 2 :]
    if instruction.kind == 'collective-permute-start':
      arrays = arrays[:1]
    if kind == 'reduce-scatter':
      arrays = tuple(a for o in instruction.operands for a in computation[o].arrays)
    if kind == 'all-reduce' and 'all-reduce-scatter' in name:
      # The TPU compiler's reduce-scatter: every device keeps its own slice of the sum.
      kind = 'reduce-scatter'
    shapes = tuple(array.shape for array in arrays)
    size = sum(array.size for array in arrays)
    groups = tuple(g for g in groups if len(set(g)) > 1)
    if groups:
      axes = '+'.join(_axes(groups if kind == 'collective-permute' else groups[:1], mesh))
      found.append(Collective(kind, shapes, size, times, groups, axes))
  return found


def across_hosts(found: Sequence[Collective], mesh: Mesh) -> float:
  """Bytes that reach the devices of one host from others; of all hosts, the largest number."""
  hosts = np.array([device.process_index for device in mesh.devices.flat])
  arriving = dict.fromkeys(hosts.tolist(), 0.0)
  for collective in found:
    for group in collective.groups:
      share = collective.times * collective.size / len(group)
      share *= 2 if collective.kind == 'all-reduce' else 1
      for place in group:
        elsewhere = sum(hosts[other] != hosts[place] for other in group)
        if collective.kind == 'collective-permute':  # The second of a pair gets all of it.
          elsewhere *= len(group) * (place == group[-1])
        arriving[int(hosts[place])] += share * elsewhere
  return max(arriving.values(), default=0.0)


def memory(program: Program, seen: int) -> float:
  """Bytes that a chip reads from and writes to its main memory, an estimate.

  Every instruction reads what it takes and writes what it makes, once; of what is only sliced, the
  slice; of what is updated in place, the update. Of a cache that a kernel reads by itself, `seen`
  entries of each row. All branches of a conditional count.
  """
  total = 0.0
  for times, name, instruction in program.walk(fused=False):
    if instruction.kind not in _STILL and not instruction.kind.endswith('-done'):
      total += times * _moved(instruction, program.computations[name], program, seen)
  return total


def _moved(
  instruction: Instruction, computation: Computation, program: Program, seen: int
) -> float:
  operands = [computation[name] for name in instruction.operands if name in computation]
  if instruction.kind == 'custom-call':
    return _called(instruction, operands, seen)
  if instruction.kind == 'fusion':
    return _fused(instruction, operands, program)
  if instruction.kind in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _main(instruction)
  if instruction.kind in _IN_PLACE:
    return 2 * _main(operands[_IN_PLACE[instruction.kind]])
  if instruction.kind in ('copy-start', 'slice-start'):
    # A tuple of what is made, what is taken and a sign; of a slice, what is taken stands first.
    made = instruction.arrays[instruction.kind == 'slice-start']
    return made.size * (made.is_main + bool(_main(operands[0])))
  return _main(instruction) + sum(map(_main, operands))


def _main(instruction: Instruction) -> float:
  return sum(array.size for array in instruction.arrays if array.is_main)


def _called(instruction: Instruction, operands: Sequence[Instruction], seen: int) -> float:
  if 'tpu_custom_call' not in instruction.text:
    return 0.0
  read = sum(map(_main, operands))
  if 'ragged_paged_attention' in instruction.name:
    pages = max(operands, key=_main)  # [P,B,2K,H], and which of them each row has.
    entry = _main(pages) / math.prod(pages.arrays[0].shape[:2])
    (table,) = (a for o in operands for a in o.arrays if a.dtype == 's32' and len(a.shape) == 2)
    read += min(_main(pages), entry * seen * table.shape[0]) - _main(pages)
  return read + _main(instruction)


def _fused(fusion: Instruction, operands: Sequence[Instruction], program: Program) -> float:
  inner = program.computations[fusion.called[0]]
  total = 0.0
  for place, operand in enumerate(operands):
    if _main(operand):
      total += min(_main(operand), _read(_parameter(inner, place), inner, program))
  root = _root(inner)
  results = [inner[name] for name in root.operands] if root.kind == 'tuple' else [root]
  for array, result in zip(fusion.arrays, results):
    if array.is_main:
      total += min(array.size, _written(result, inner, program))
  return total


def _parameter(inner: Computation, place: int) -> Instruction:
  return next(i for i in inner.values() if i.kind == 'parameter' and int(i.inside) == place)


def _root(inner: Computation) -> Instruction:
  return next(i for i in inner.values() if i.is_root)


def _read(value: Instruction, inner: Computation, program: Program) -> float:
  """Bytes of a value that a fusion's instructions look at."""
  total = 0.0
  for user in (i for i in inner.values() if value.name in i.operands):
    if user.kind in _SAME:
      total += _read(user, inner, program)
    elif user.kind in ('dynamic-slice', 'gather', 'slice'):
      total += user.size
    elif user.kind == 'fusion':
      nested = program.computations[user.called[0]]
      places = [place for place, name in enumerate(user.operands) if name == value.name]
      total += sum(_read(_parameter(nested, place), nested, program) for place in places)
    elif user.kind not in _IN_PLACE or user.operands[0] != value.name:
      total += value.size
  return min(total, value.size)


def _written(result: Instruction, inner: Computation, program: Program) -> float:
  """Bytes that a fusion's result takes anew: what is updated in place is there already."""
  while result.kind in _SAME and result.operands[0] in inner:
    result = inner[result.operands[0]]
  if result.kind == 'fusion':
    nested = program.computations[result.called[0]]
    return _written(_root(nested), nested, program)
  update = _IN_PLACE.get(result.kind)
  return result.size if update is None else inner[result.operands[update]].size


def _axes(groups: Sequence[Sequence[int]], mesh: Mesh) -> list[str]:
  """Axes of the mesh along which the members of a group differ."""
  places = np.array(np.unravel_index(np.array(groups), mesh.devices.shape))
  differ = (places != places[..., :1]).any(axis=(1, 2))
  return [name for name, differs in zip(mesh.axis_names, differ) if differs]
