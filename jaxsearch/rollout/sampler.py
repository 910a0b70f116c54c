"""The host half of a rollout: rows that run, search and end.

A row is RUNNING while decode samples for it, SEARCHING while the retriever pool works for it (its
cache stays where it is), and gone once its trajectory is done. One step decodes a chunk for all
running rows, turns stops into searches, admits tasks into free slots, collects the answers that
arrived and extends the rows that go on. A slow search holds up no other row. All device work is
issued from here, by one thread.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.dialogue import Append, Dialogue
from jaxsearch.rollout.engine import Chunk, Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.pressure import Pressure
from jaxsearch.rollout.programs import Decoded
from jaxsearch.rollout.row import Row, State
from jaxsearch.types import Kind, SearchRequest, Status, Task, Trajectory

# Longest wait for an answer when no row can run; the pool wakes the sampler earlier.
_WAIT_S = 1.0
# A chunk of decode ends once one in this many of its rows has stopped.
_PATIENCE = 8
# How long a chunk of decode should take at most while answers may arrive.
_LOOK_S = 0.05


class Sampler:
  """Turns tasks into trajectories; keeps slots busy by continuous batching."""

  def __init__(
    self,
    engine: Engine,
    extender: Extender,
    dialogue: Dialogue,
    rollout: config_lib.Rollout,
  ):
    self._engine, self._extender, self._dialogue = engine, extender, dialogue
    self._rollout = rollout
    self._rows: dict[int, Row] = {}
    self._pressure = Pressure(engine, extender, self._rows)
    self._waiting: collections.deque[tuple[tuple[Task, ...], int]] = collections.deque()
    # Rows that branched off and have no slot yet, the slot they branched from, what writes it.
    self._branches: list[tuple[Row, int, Any]] = []
    self._done: dict[str, Trajectory] = {}
    # The chunk that the device is at work on, and the rows that it may sample for.
    self._flight: tuple[Sequence[Row], Chunk, float] | None = None  # And when it began.
    self._seconds: collections.Counter[str] = collections.Counter()
    self._rows_decoded = self._rows_offered = 0
    self._orders = itertools.count()
    self._step_s = self._read_at = 0.0  # What a step of decode took of late, and when it ended.

  def rollout(
    self, tasks: Sequence[Task], *, pool: Pool | None, top_k: int, temperature: float
  ) -> list[Trajectory]:
    """Rolls out every task with the engine's present weights.

    Args:
      tasks: distinct (step, position, sample), those of one question next to each other.
      pool: where searches go; None if the protocol never searches.
      top_k: documents per query.
      temperature: 0 for greedy.

    Returns:
      one trajectory a task, in their order.
    """
    self._pool, self._top_k, self._temperature = pool, top_k, temperature
    self._waiting.extend((begun, 0) for begun in self._trees(tasks))
    while self._waiting or self._branches or self._rows:
      self.step()
    self._extender.forget()
    self._engine.memory.clear()
    self._flight = None
    done, self._done = self._done, {}
    return [done[task.name] for task in tasks]

  def measure(self) -> dict[str, float]:
    """Figures since the last call, which this one forgets.

    timing_s/gen/*: seconds per part of the work; perf/occupancy: of all slots in all steps of
    decode, the share that sampled a token. perf/evictions: rows that lost their pages.
    """
    measured = {f'timing_s/gen/{part}': s for part, s in self._seconds.items()}
    measured['perf/occupancy'] = self._rows_decoded / max(self._rows_offered, 1)
    measured['perf/evictions'] = float(self._pressure.evicted)
    self._pressure.evicted = 0
    self._seconds.clear()
    self._rows_decoded = self._rows_offered = 0
    return measured

  def step(self) -> None:
    """Decode, stops, admission, answers, extension; each part for all rows that need it."""
    running = [row for row in self._rows.values() if row.state is State.RUNNING]
    ready = [row for row in running if row.cached and self._extender.is_ready(row)]
    ready = self._pressure.decodable(ready)
    with self._timed('decode'):
      before, self._flight = self._flight, self._dispatch(ready)
    if not self._rollout.overlap:
      before, self._flight = self._flight, None
    if before is not None:
      rows, chunk, begun = before
      with self._timed('decode'):
        decoded = self._engine.read(chunk)
      begun, self._read_at = max(begun, self._read_at), time.monotonic()
      self._step_s = (self._read_at - begun) / max(decoded.count.max(), 1)
      with self._timed('host'):
        self._collect(rows, decoded)
    with self._timed('host'):
      self._admit()
    idle = all(row.state is State.SEARCHING for row in self._rows.values())
    with self._timed('wait' if idle else 'host'):
      self._receive(_WAIT_S if idle else 0.0)
    with self._timed('extend'):
      self._rebuild()
      decoding = {self._engine.replica(row.slot) for row in ready}
      make_room = functools.partial(self._pressure.make_room, decoding=decoding)
      self._extender.flush(len(ready), make_room)

  @contextlib.contextmanager
  def _timed(self, part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    self._seconds[part] += time.monotonic() - start

  def _dispatch(self, ready: Sequence[Row]) -> tuple[Sequence[Row], Chunk, float] | None:
    if not ready:
      return None
    steps = self._engine.steps
    if self._step_s and any(row.state is State.SEARCHING for row in self._rows.values()):
      steps = max(1, int(_LOOK_S / self._step_s))
    patience = len(ready) // self._engine.replicas // _PATIENCE
    begun = time.monotonic()
    return ready, self._engine.decode(steps=steps, stops=max(1, patience)), begun

  def _collect(self, rows: Sequence[Row], decoded: Decoded) -> None:
    self._rows_decoded += int(decoded.count.sum())
    self._rows_offered += int(decoded.count.max()) * self._engine.slots
    for row in rows:
      count = decoded.count[row.slot]
      # It stopped in the chunk before this one, which was under way by then; or it lost its pages
      # meanwhile, and will sample the same once more.
      if not count or not row.cached:
        continue
      active = bool(decoded.active[row.slot])
      old, is_behind = self._extender.sampled(row, count, active=active)
      if old < count:
        new = slice(old, count)
        state = int(decoded.automaton[row.slot])
        row.sampled(decoded.tokens[row.slot, new], decoded.logprobs[row.slot, new], state)
      if not active and not is_behind:
        self._pause(row, int(decoded.automaton[row.slot]))

  def _pause(self, row: Row, automaton: int) -> None:
    match self._dialogue.pause(row, automaton, self._top_k):
      case SearchRequest() as request:
        row.state, row.asked_at = State.SEARCHING, time.monotonic()
        self._pool.submit(request)
      case then:
        self._go_on(row, then)

  def _receive(self, timeout_s: float) -> None:
    if self._pool is None or not self._pool.pending:
      return
    searching = {r.task.name: r for r in self._rows.values() if r.state is State.SEARCHING}
    for request, result in self._pool.poll(timeout_s):
      row = searching[request.trajectory]
      if result.outcome.is_infra and row.attempt + 1 < self._rollout.attempts:
        self._waiting.appendleft((row.tasks, row.attempt + 1))
        del self._rows[row.slot]
      else:
        self._go_on(row, self._dialogue.answer(row, result))

  def _go_on(self, row: Row, then: Append | Status) -> None:
    """Ends the row, or lets it run behind what it is given: as one, or as the two it becomes."""
    if isinstance(then, Status):
      self._finish(row, then)
      return
    start = row.length - 1
    fed = np.concatenate([[row.pending], then.ids])[:-1]
    if len(then.ids):
      row.append(Kind.OBSERVATION, then.ids)
    row.state = State.RUNNING
    if not row.cached:
      return  # `_rebuild` feeds all of it.
    child = row.branch() if then.answers and len(row.tasks) > 1 else None
    writer = self._extender.extend(row, start, fed, *self._begun(row))
    if child is not None:
      self._branches.append((child, row.slot, writer))

  def _rebuild(self) -> None:
    """Queues the rows that lost their cache and are to run."""
    for row in self._rows.values():
      if row.state is State.RUNNING and not row.cached:
        row.cached = True
        self._extender.rebuild(row, *self._begun(row))

  def _admit(self) -> None:
    """Puts waiting tasks into free slots; an infrastructure failure starts afresh in any slot."""
    self._admit_branches()
    held = {source for _, source, _ in self._branches}
    free = (s for s in range(self._engine.slots) if s not in self._rows and s not in held)
    for slot in free:
      if not self._waiting:
        return
      tasks, attempt = self._waiting.popleft()
      row = Row(tasks, attempt, slot, self._dialogue.prompt(tasks[0]), order=next(self._orders))
      self._rows[slot] = row
      if self._dialogue.budget(row) > 0:
        self._extender.begin(row, *self._begun(row))
      else:
        self._finish(row, Status.CONTEXT_CAP)

  def _admit_branches(self) -> None:
    """Gives free slots to rows that branched off: copies, or the very slot that they began in.

    A slot from which rows still wait to branch goes to the one of them that has come furthest: it
    writes behind what the others need.
    """
    for slot in (s for s in range(self._engine.slots) if s not in self._rows):
      replica = self._engine.replica(slot)
      near = [b for b in self._branches if self._engine.replica(b[1]) == replica]
      here = [b for b in near if b[1] == slot]
      if not near:
        continue
      chosen = max(here, key=lambda b: b[0].length) if here else near[0]
      self._branches = [b for b in self._branches if b is not chosen]
      row, source, writer = chosen
      row.slot = slot
      self._rows[slot] = row
      self._extender.branch(row, source, writer, *self._begun(row))

  def _trees(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, ...]]:
    """The tasks in stretches of one question that begin as one row."""
    for _, group in itertools.groupby(tasks, key=lambda t: t.position):
      samples = tuple(group)
      for first in range(0, len(samples), self._rollout.leaves):
        yield samples[first : first + self._rollout.leaves]

  def _begun(self, row: Row) -> tuple[int, np.ndarray, float]:
    """What the device is told with a row's last chunk: budget, key and temperature."""
    return self._dialogue.budget(row), self._dialogue.key(row), self._temperature

  def _finish(self, row: Row, status: Status) -> None:
    del self._rows[row.slot]
    self._done[row.task.name] = row.trajectory(status)
    if len(row.tasks) > 1:  # It ended before they could part: the others begin anew.
      self._waiting.appendleft((row.tasks[1:], 0))
