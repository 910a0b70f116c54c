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
import time
from collections.abc import Iterator, Sequence

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.protocols import _contract
from jaxsearch.retrieval.pool import Pool
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
    self._waiting: collections.deque[tuple[Task, int]] = collections.deque()
    self._done: dict[str, Trajectory] = {}
    self._extender = Extender(engine)
    self._seconds: collections.Counter[str] = collections.Counter()
    self._rows_decoded = self._rows_offered = 0

  def rollout(
    self, tasks: Sequence[Task], *, pool: Pool, top_k: int, temperature: float
  ) -> list[Trajectory]:
    """Rolls out every task with the engine's present weights.

    Args:
      tasks: distinct (step, position, sample); samples of one question next to each other share
        its prompt's cache.
      pool: where searches go.
      top_k: documents per query.
      temperature: 0 for greedy.

    Returns:
      one trajectory a task, in the order of the tasks.
    """
    self._pool, self._top_k, self._temperature = pool, top_k, temperature
    self._waiting.extend((task, 0) for task in tasks)
    while self._waiting or self._rows:
      self.step()
    self._extender.forget()
    done, self._done = self._done, {}
    return [done[task.name] for task in tasks]

  def measure(self) -> dict[str, float]:
    """Figures since the last call, which this one forgets.

    Returns:
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
    data = self._tokenizer.bytes_of(row.close_segment())
    index = len(row.segments) - 1
    row.spans += [Span(name, index, start, end) for name, start, end in self._protocol.spans(data)]
    match self._protocol.at_pause(data, stop) if stop else None:
      case _contract.Finish(status):
        self._finish(row, status)
      case _ if self._left(row) <= 0:  # Nothing could be written behind an answer.
        capped = row.policy_tokens >= self._rollout.policy_tokens
        self._finish(row, Status.POLICY_TOKEN_CAP if capped else Status.CONTEXT_CAP)
      case _contract.Notice(text):
        self._resume(row, self._tokenizer.encode(text))
      case _contract.Search(queries):
        self._search(row, queries)

  def _search(self, row: Row, queries: tuple[str, ...]) -> None:
    if len(row.turns) >= self._rollout.max_searches:
      self._finish(row, Status.TURN_CAP)
      return
    row.state, row.queries = State.SEARCHING, queries
    if not queries:
      self._observe(row, SearchResult(Outcome.BAD_QUERY))
      return
    turn = len(row.turns)
    key = _key(self._seed, row.task, row.attempt, 1 + turn)
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
    if not self._pool.pending:
      return
    searching = {r.task.name: r for r in self._rows.values() if r.state is State.SEARCHING}
    for request, result in self._pool.poll(timeout_s):
      row = searching[request.trajectory]
      if not result.outcome.is_infra:
        self._observe(row, result)
      elif row.attempt + 1 < self._rollout.attempts:
        self._waiting.appendleft((row.task, row.attempt + 1))
        del self._rows[row.slot]
      else:
        self._turn(row, result, shown=0)
        self._finish(row, Status.INFRA)

  def _observe(self, row: Row, result: SearchResult) -> None:
    """Appends the answer, with as many documents as leave room for one more token."""
    room = self._rollout.context_tokens - row.length - 1
    found = max((len(documents) for documents in result.documents), default=0)
    for shown in range(found, -1 if found == 0 else 0, -1):
      ids = self._tokenizer.encode(self._protocol.observation(result, shown))
      if len(ids) <= room:
        self._turn(row, result, shown)
        self._resume(row, ids)
        return
    self._turn(row, result, shown=0)
    self._finish(row, Status.CONTEXT_CAP)

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

  def _resume(self, row: Row, ids: np.ndarray) -> None:
    """Appends what the policy did not write and lets the row run again."""
    if row.length + len(ids) >= self._rollout.context_tokens:
      self._finish(row, Status.CONTEXT_CAP)
      return
    start = row.length - 1
    fed = np.concatenate([[row.pending], ids])[:-1]
    if len(ids):
      row.append(Kind.OBSERVATION, ids)
    row.state = State.RUNNING
    self._extender.extend(row, start, fed, self._left(row), self._row_key(row), self._temperature)

  def _admit(self) -> None:
    """Puts waiting tasks into free slots; an infrastructure failure starts afresh in any slot."""
    free = (slot for slot in range(self._engine.slots) if slot not in self._rows)
    for slot in free:
      if not self._waiting:
        return
      task, attempt = self._waiting.popleft()
      prompt = self._protocol.prompt_ids(task.question)
      row = Row(task, attempt, slot, prompt)
      self._rows[slot] = row
      if self._left(row) <= 0:
        self._finish(row, Status.CONTEXT_CAP)
        continue
      self._extender.begin(row, self._left(row), self._row_key(row), self._temperature)

  def _left(self, row: Row) -> int:
    room = self._rollout.context_tokens - row.length
    return min(room, self._rollout.policy_tokens - row.policy_tokens)

  def _row_key(self, row: Row) -> np.ndarray:
    return _key(self._seed, row.task, row.attempt, 0)

  def _finish(self, row: Row, status: Status) -> None:
    del self._rows[row.slot]
    self._done[row.task.name] = row.trajectory(status)


def _key(seed: int, task: Task, attempt: int, use: int) -> np.ndarray:
  """uint32 [2], a function of the trajectory's identity alone: nothing process-local enters it.

  Context 0 stands where branching methods put theirs; use 0 is sampling, 1 + turn a search.
  """
  words = (seed, task.step, task.position, task.sample, 0, attempt, use)
  return np.random.SeedSequence(words).generate_state(2, np.uint32)
