"""Optimised programs as text, read: instructions, what they take, and how often they run.

The compiler's own totals count the body of a loop once. `Program` multiplies by the rounds of each
loop, where they are known when it is compiled; other loops (decode) count as one round.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {'pred': 1, 'bf16': 2, 'f16': 2, 's4': 0.5, 'u4': 0.5, 'c64': 8, 'token': 0}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(r'(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Array(NamedTuple):
  """One array of an instruction's result.

  Attributes:
    dtype: as HLO names it.
    shape: of one device's part.
    is_main: whether it is in the device's main memory, not in what the chip keeps close by.
  """

  dtype: str
  shape: tuple[int, ...]
  is_main: bool

  @property
  def size(self) -> float:
    """Bytes, without the padding of tiles."""
    width = _BYTES.get(self.dtype)
    if width is None:
      width = int(re.search(r'\d+', self.dtype)[0]) / 8
    return width * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: unique in its computation.
    kind: the operation.
    arrays: of the result; several of a tuple.
    operands: names.
    text: what follows the operands: attributes.
    inside: between the parentheses, as it stands.
    is_root: whether it is the result of its computation.
  """

  name: str
  kind: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str
  inside: str
  is_root: bool

  @property
  def called(self) -> list[str]:
    """Computations that it runs."""
    names = _CALLED.findall(self.text)
    for branches in _BRANCHES.findall(self.text):
      names += re.findall(r'[\w.\-]+', branches)
    return names

  @property
  def size(self) -> float:
    """Bytes of the result."""
    return sum(array.size for array in self.arrays)


Computation = dict[str, Instruction]


class Program:
  """A compiled program of one device."""

  def __init__(self, text: str):
    """`text` is that of `jax.stages.Compiled.as_text`."""
    self.computations: dict[str, Computation] = {}
    current: Computation = {}
    for line in text.splitlines():
      header, body = _HEADER.match(line), _LINE.match(line)
      if header:
        current = self.computations[header[2]] = {}
        if header[1]:
          self._entry = header[2]
      elif body:
        made = _instruction(body[2], body[3], bool(body[1]))
        if made:
          current[made.name] = made

  def walk(self, *, fused: bool) -> Iterator[tuple[float, str, Instruction]]:
    """(how often it runs, its computation, instruction) of everything that runs.

    Args:
      fused: also what is inside of fusions and of functions that reduce.
    """
    yield from self._walk(self._entry, 1.0, fused)

  def _walk(self, name: str, times: float, fused: bool) -> Iterator[tuple[float, str, Instruction]]:
    for instruction in self.computations[name].values():
      yield times, name, instruction
      if instruction.kind in ('while', 'conditional', 'call', 'async-start') or fused:
        rounds = self._rounds(name, instruction) if instruction.kind == 'while' else 1.0
        for called in instruction.called:
          yield from self._walk(called, times * rounds, fused)

  def _rounds(self, name: str, loop: Instruction) -> float:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
    if known:
      return float(known[1])
    condition = self.computations[re.search(r'condition=%?([\w.\-]+)', loop.text)[1]]
    root = next(i for i in condition.values() if i.is_root)
    if root.kind != 'compare' or 'direction=LT' not in root.text:
      return 1.0
    start, stop = (self._constant(name, loop, condition, o) for o in root.operands)
    if stop is None:
      return 1.0
    return float(stop - (start or 0))

  def _constant(
    self, name: str, loop: Instruction, condition: Computation, operand: str
  ) -> int | None:
    """The number that a loop's condition compares; of what the loop carries, its first value."""
    found, where = condition[operand], condition
    if found.kind == 'get-tuple-element':
      index = int(re.search(r'index=(\d+)', found.text)[1])
      where = self.computations[name]
      carried = where[loop.operands[0]]
      if carried.kind != 'tuple':
        return None
      found = where[carried.operands[index]]
    while found.kind in ('copy', 'bitcast', 'convert'):
      found = where[found.operands[0]]
    is_number = found.kind == 'constant' and re.fullmatch(r'-?\d+', found.inside)
    return int(found.inside) if is_number else None


def _instruction(name: str, rest: str, is_root: bool) -> Instruction | None:
  if rest.startswith('('):
    end = _closing(rest, 0) + 1
  else:
    end = rest.find(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  kind, opened, _ = rest.partition('(')
  if not opened or not re.fullmatch(r'[\w\-]+', kind):
    return None
  close = _closing(rest, len(kind))
  inside = rest[len(kind) + 1 : close]
  arrays = tuple(
    Array(
      dtype,
      tuple(int(n) for n in dims.split(',') if n),
      not re.search(r'S\([1-9]\d*\)', layout),
    )
    for dtype, dims, layout in _ARRAY.findall(shape)
  )
  operands = tuple(re.findall(r'%([\w.\-]+)', inside))
  return Instruction(name, kind, arrays, operands, rest[close + 1 :], inside, is_root)


def _closing(text: str, start: int) -> int:
  """Place of the parenthesis that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[place], 0)
    if not depth:
      return place
  return len(text)
