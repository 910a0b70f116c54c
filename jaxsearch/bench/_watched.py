"""Engines that are looked at after every program: how long it took, what lies on the devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsearch.bench import _memory, floors
from jaxsearch.rollout.engine import Engine, Lane
from jaxsearch.rollout.programs import Decoded


class Watched:
  """An engine of which every program is waited for and timed."""

  def __init__(self, engine: Engine, work: floors.Work, machine: floors.Machine):
    self._engine, self._work, self._machine = engine, work, machine
    self.decode_s = self.extend_s = self.floor_s = 0.0
    self.steps = 0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._engine, name)

  def decode(self, *, stops: int) -> Decoded:
    start = time.perf_counter()
    out = jax.block_until_ready(self._engine.decode(stops))
    self.decode_s += time.perf_counter() - start
    counts, lengths = np.asarray(out.count), self._engine.lengths()
    for step in range(counts.max(initial=0)):
      active = counts > step
      self.floor_s += self._work.step(self._machine, (lengths - counts + step + 1)[active])
    self.steps += int(counts.max(initial=0))
    return out

  def extend(self, lanes: Sequence[Lane]) -> None:
    self._time(self._engine.extend, lanes)

  def fork(self, lanes: Sequence[Lane]) -> None:
    self._time(self._engine.fork, lanes)

  def _time(self, program: Callable[[Sequence[Lane]], None], lanes: Sequence[Lane]) -> None:
    start = time.perf_counter()
    program(lanes)
    self._engine.lengths()
    self.extend_s += time.perf_counter() - start


class Weighed:
  """An engine of which, after every program, the bytes of all arrays are counted."""

  def __init__(self, engine: Engine):
    self._engine = engine
    self.most = 0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._engine, name)

  def decode(self, *, stops: int) -> Decoded:
    out = self._engine.decode(stops)
    self._look()
    return out

  def extend(self, lanes: Sequence[Lane]) -> None:
    self._engine.extend(lanes)
    self._look()

  def fork(self, lanes: Sequence[Lane]) -> None:
    self._engine.fork(lanes)
    self._look()

  def _look(self) -> None:
    self.most = max(self.most, _memory.live_bytes())
