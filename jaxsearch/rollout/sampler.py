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
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.protocols import _contract
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout import observation
from jaxsearch.rollout.engine import Decoded, Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.row import Row, State
from jaxsearch.text.stops import StopTable
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import (
  Kind,
  Outcome,
  SearchRequest,
  SearchResult,
  Span,
  Status,
  Task,
  Trajectory,
  Turn,
)

# Longest wait for an answer when no row can run; the pool wakes the sampler earlier.
_WAIT_S = 1.0


class Sampler:
  """Turns tasks into trajectories; keeps slots busy by continuous batching."""

  def __init__(
    self,
    engine: Engine,
    *,
    protocol: _contract.Protocol,
    tokenizer: Tokenizer,
    stops: StopTable,
    rollout: config_lib.Rollout,
    seed: int,
  ):
    self._engine = engine
    self._protocol, self._tokenizer, self._stops = protocol, tokenizer, stops
    self._rollout, self._seed = rollout, seed
    self._rows: dict[int, Row] = {}
    self._waiting: collections.deque[tuple[tuple[Task, ...], int]] = collections.deque()
    # Rows that branched off and have no slot yet, the slot they branched from, what writes it.
    self._branches: list[tuple[Row, int, Any]] = []
    self._done: dict[str, Trajectory] = {}
    self._extender = Extender(engine)
    self._seconds: collections.Counter[str] = collections.Counter()
    self._rows_decoded = self._rows_offered = 0

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
    done, self._done = self._done, {}
    return [done[task.name] for task in tasks]

  def measure(self) -> dict[str, float]:
    """Figures since the last call, which this one forgets.

    timing_s/gen/*: seconds per part of the work; perf/occupancy: of all slots in all steps of
    decode, the share that sampled a token.
    """
    measured = {f'timing_s/gen/{part}': s for part, s in self._seconds.items()}
    measured['perf/occupancy'] = self._rows_decoded / max(self._rows_offered, 1)
    self._seconds.clear()
    self._rows_decoded = self._rows_offered = 0
    return measured

  def step(self) -> None:
    """Decode, stops, admission, answers, extension; each part for all rows that need it."""
    running = [row for row in self._rows.values() if row.state is State.RUNNING]
    ready = [row for row in running if self._extender.is_ready(row)]
    if ready:
      with self._timed('decode'):
        decoded = Decoded(*(np.asarray(array) for array in self._engine.decode()))
      with self._timed('host'):
        self._collect(ready, decoded)
    with self._timed('host'):
      self._admit()
    idle = all(row.state is State.SEARCHING for row in self._rows.values())
    with self._timed('wait' if idle else 'host'):
      self._receive(_WAIT_S if idle else 0.0)
    with self._timed('extend'):
      self._extender.flush(running=len(ready))

  @contextlib.contextmanager
  def _timed(self, part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    self._seconds[part] += time.monotonic() - start

  def _collect(self, rows: Sequence[Row], decoded: Decoded) -> None:
    self._rows_decoded += int(decoded.count.sum())
    self._rows_offered += int(decoded.count.max()) * self._engine.slots
    for row in rows:
      count = decoded.count[row.slot]
      row.sampled(decoded.tokens[row.slot, :count], decoded.logprobs[row.slot, :count])
      if not decoded.active[row.slot]:
        stop = int(decoded.automaton[row.slot]) - self._stops.first_accept
        self._pause(row, self._stops.names[stop] if stop >= 0 else None)

  def _pause(self, row: Row, stop: str | None) -> None:
    """A row stopped sampling: at a stop, or because nothing was left to sample."""
    ids = row.close_segment()
    data = self._tokenizer.bytes_of(ids)
    row.spans += [
      Span(name, len(row.segments) - 1, *at, *self._tokenizer.range_of(ids, *at))
      for name, *at in self._protocol.spans(data)
    ]
    is_spent = self._left(row) <= 0
    match None if stop is None and is_spent else self._protocol.at_pause(data, stop):
      case _contract.Finish(status):
        self._finish(row, status)
      case _ if is_spent:  # Nothing could be written behind an answer.
        capped = row.policy_tokens >= self._rollout.policy_tokens
        self._finish(row, Status.POLICY_TOKEN_CAP if capped else Status.CONTEXT_CAP)
      case _ if len(row.turns) + row.notices >= self._rollout.max_searches:
        self._finish(row, Status.TURN_CAP)
      case _contract.Notice(text):
        row.notices += 1
        self._resume(row, self._tokenizer.encode(text))
      case _contract.Search(queries):
        self._search(row, queries)

  def _search(self, row: Row, queries: tuple[str, ...]) -> None:
    row.state, row.queries = State.SEARCHING, queries
    if not queries:
      self._observe(row, SearchResult(Outcome.BAD_QUERY))
      return
    turn = len(row.turns)
    key = row.key(self._seed, 1 + turn)
    self._pool.submit(
      SearchRequest(
        trajectory=row.task.name,
        turn=turn,
        attempt=row.attempt,
        queries=queries,
        top_k=self._top_k,
        question_id=row.task.question.id,
        progress=row.task.progress,
        key=int(key[0]) << 32 | int(key[1]),
      )
    )

  def _receive(self, timeout_s: float) -> None:
    if self._pool is None or not self._pool.pending:
      return
    searching = {r.task.name: r for r in self._rows.values() if r.state is State.SEARCHING}
    for request, result in self._pool.poll(timeout_s):
      row = searching[request.trajectory]
      if not result.outcome.is_infra:
        self._observe(row, result)
      elif row.attempt + 1 < self._rollout.attempts:
        self._waiting.appendleft((row.tasks, row.attempt + 1))
        del self._rows[row.slot]
      else:
        self._turn(row, result, shown=0)
        self._finish(row, Status.INFRA)

  def _observe(self, row: Row, result: SearchResult) -> None:
    """Appends the answer, with as many documents as leave room for one more token."""
    room = self._rollout.context_tokens - row.length - 1
    encode = lambda some, shown: self._tokenizer.encode(self._protocol.observation(some, shown))
    fitting = observation.fit(result, encode, room, self._rollout.observation_tokens or room)
    if fitting is None:
      self._turn(row, result, shown=0)
      self._finish(row, Status.CONTEXT_CAP)
      return
    ids, shown = fitting
    self._turn(row, result, shown)
    self._resume(row, ids, may_branch=True)

  def _turn(self, row: Row, result: SearchResult, shown: int) -> None:
    row.turns.append(
      Turn(
        queries=row.queries,
        documents=result.documents,
        shown=shown,
        outcome=result.outcome,
        latency_s=result.latency_s,
        segment=len(row.segments),
      )
    )

  def _resume(self, row: Row, ids: np.ndarray, *, may_branch: bool = False) -> None:
    """Appends what the policy did not write and lets the row run again, or the two it becomes."""
    if row.length + len(ids) >= self._rollout.context_tokens:
      self._finish(row, Status.CONTEXT_CAP)
      return
    start = row.length - 1
    fed = np.concatenate([[row.pending], ids])[:-1]
    if len(ids):
      row.append(Kind.OBSERVATION, ids)
    row.state = State.RUNNING
    child = row.branch() if may_branch and len(row.tasks) > 1 else None
    writer = self._extender.extend(
      row, start, fed, self._budget(row), row.key(self._seed), self._temperature
    )
    if child is not None:
      self._branches.append((child, row.slot, writer))

  def _admit(self) -> None:
    """Puts waiting tasks into free slots; an infrastructure failure starts afresh in any slot."""
    self._admit_branches()
    held = {source for _, source, _ in self._branches}
    free = (s for s in range(self._engine.slots) if s not in self._rows and s not in held)
    for slot in free:
      if not self._waiting:
        return
      tasks, attempt = self._waiting.popleft()
      prompt = self._protocol.prompt_ids(tasks[0].question)
      row = Row(tasks, attempt, slot, prompt)
      self._rows[slot] = row
      if self._left(row) <= 0:
        self._finish(row, Status.CONTEXT_CAP)
        continue
      self._extender.begin(row, self._budget(row), row.key(self._seed), self._temperature)

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
      self._extender.branch(
        row, source, writer, self._budget(row), row.key(self._seed), self._temperature
      )

  def _trees(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, ...]]:
    """The tasks in stretches of one question that begin as one row."""
    for _, group in itertools.groupby(tasks, key=lambda t: t.position):
      samples = tuple(group)
      for first in range(0, len(samples), self._rollout.leaves):
        yield samples[first : first + self._rollout.leaves]

  def _left(self, row: Row) -> int:
    room = self._rollout.context_tokens - row.length
    return min(room, self._rollout.policy_tokens - row.policy_tokens)

  def _budget(self, row: Row) -> int:
    """Tokens that the row may sample before its next pause."""
    return min(self._left(row), self._rollout.turn_tokens or self._left(row))

  def _finish(self, row: Row, status: Status) -> None:
    del self._rows[row.slot]
    self._done[row.task.name] = row.trajectory(status)
    if len(row.tasks) > 1:  # It ended before they could part: the others begin anew.
      self._waiting.appendleft((row.tasks[1:], 0))
