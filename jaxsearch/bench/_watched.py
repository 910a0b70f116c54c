"""Engines that are looked at after every program: how long it took, what lies on the devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxsearch.bench import _memory, floors
from jaxsearch.rollout.engine import Chunk, Engine
from jaxsearch.rollout.lanes import Lane
from jaxsearch.rollout.programs import Decoded


class Watched:
  """An engine of which every program is waited for and timed."""

  def __init__(self, engine: Engine, work: floors.Work, machine: floors.Machine):
    self._engine, self._work, self._machine = engine, work, machine
    self.decode_s = self.extend_s = self.floor_s = 0.0
    self.steps = 0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._engine, name)

  def decode(self, *, steps: int, stops: int) -> Chunk:
    start = time.perf_counter()
    chunk = self._engine.decode(steps=steps, stops=stops)
    jax.block_until_ready(chunk.out)
    self.decode_s += time.perf_counter() - start
    return chunk

  def read(self, chunk: Chunk) -> Decoded:
    lengths = self._engine.memory.length
    decoded = self._engine.read(chunk)
    for step in range(decoded.count.max(initial=0)):
      active = decoded.count > step
      self.floor_s += self._work.step(self._machine, (lengths + step + 1)[active])
    self.steps += int(decoded.count.max(initial=0))
    return decoded

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

  def decode(self, *, steps: int, stops: int) -> Chunk:
    chunk = self._engine.decode(steps=steps, stops=stops)
    self._look()
    return chunk

  def extend(self, lanes: Sequence[Lane]) -> None:
    self._engine.extend(lanes)
    self._look()

  def fork(self, lanes: Sequence[Lane]) -> None:
    self._engine.fork(lanes)
    self._look()

  def _look(self) -> None:
    self.most = max(self.most, _memory.live_bytes())
