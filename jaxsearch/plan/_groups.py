"""Which devices talk in a collective, as HLO writes it."""

from __future__ import annotations

import math
import re

import numpy as np

# Shape and order of a run of numbers, and an axis with the part of it that is meant.
_IOTA = r'\[([\d,]+)\](?:T\(([\d,]+)\))?'
_OVER = r"'(\w+)'(?::\((\d+)\)(\d+))?"


def parse(text: str, devices: int) -> tuple[tuple[int, ...], ...]:
  """Devices that talk to each other, in the forms in which HLO writes them; else all of them."""
  pairs = re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', text)
  listed = re.search(r'replica_groups=\{((?:\{[\d,]+\},?)*)\}', text)
  if pairs or listed:
    return _braces((pairs or listed)[1]) or (tuple(range(devices)),)
  iota = re.search(rf'replica_groups=\[([\d,]+)\]<={_IOTA}', text)
  if iota:
    return _tuples(_iota(iota[2], iota[3]).reshape(_numbers(iota[1])))
  named = re.search(rf'replica_groups=mesh\[(.*?)\](?:, device_ids=\({_IOTA}\))? \{{(.*?)\}}', text)
  if named:
    return _named(*named.groups())
  return (tuple(range(devices)),)


def _named(axes: str, sizes: str, order: str, over: str) -> tuple[tuple[int, ...], ...]:
  """Groups over named axes; `'x':(2)4` is the part of four of an axis that begins behind two."""
  lengths = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", axes)}
  used = {a: (int(b or 1), int(n or lengths[a])) for a, b, n in re.findall(_OVER, over)}
  shape, inside = [], []
  for axis, length in lengths.items():
    before, size = used.get(axis, (length, 1))
    inside.append(len(shape) + 1)
    shape += [before, size, length // before // size]
  total = math.prod(shape)
  ids = (_iota(sizes, order) if sizes else np.arange(total)).reshape(shape)
  outside = [i for i in range(len(shape)) if i not in inside]
  members = math.prod(shape[i] for i in inside)
  return _tuples(ids.transpose(outside + inside).reshape(-1, members))


def _iota(sizes: str, order: str | None) -> np.ndarray:
  """0, 1, … in this shape, its axes in that order."""
  shape = _numbers(sizes)
  return np.arange(math.prod(shape)).reshape(shape).transpose(_numbers(order) or range(len(shape)))


def _numbers(text: str | None) -> list[int]:
  return [int(n) for n in (text or '').split(',') if n]


def _tuples(groups: np.ndarray) -> tuple[tuple[int, ...], ...]:
  return tuple(map(tuple, groups.tolist()))


def _braces(text: str) -> tuple[tuple[int, ...], ...]:
  return tuple(tuple(map(int, g.split(','))) for g in re.findall(r'\{([\d,]+)\}', text))
