"""A trace, played by the sampler: lengths are forced, everything else is as in a rollout.

Every policy token is sampled singly and goes through the stop automaton, whose matches are taken
out; `Replay` ends a turn where the trace does. The pools answer when the trace says. Two
counterfactuals differ from the real thing in one place each: `Reprefill` feeds the whole context
again after a search, `Barrier` answers nobody before everybody has asked.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import time
from collections.abc import Sequence

import numpy as np

from jaxsearch.bench import traces
from jaxsearch.bench.traces import Script
from jaxsearch.rollout.dialogue import Append
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.row import Row
from jaxsearch.text import stops as stops_lib
from jaxsearch.types import (
  Outcome,
  Question,
  SearchRequest,
  SearchResult,
  Status,
  Task,
  Turn,
)

_STOPS = ('</search>', '</answer>')


def tasks(scripts: Sequence[Script]) -> list[Task]:
  """One task a script; `question.id` is its place in the trace."""
  made = []
  for position, group in itertools.groupby(enumerate(scripts), key=lambda s: s[1].question):
    for sample, (place, _) in enumerate(group):
      made.append(Task(Question(str(place), '', ()), position, sample, step=0))
  return made


def unstopped(vocab: int) -> stops_lib.StopTable:
  """The automaton of two closing tags over `vocab` made-up tokens, none of which ends a row."""
  rng = np.random.default_rng(0)
  letters = np.frombuffer(b''.join(map(str.encode, _STOPS)), np.uint8)
  words = tuple(rng.choice(letters, rng.integers(1, 5)).tobytes() for _ in range(vocab))
  stops = stops_lib.compile(_STOPS, _Words(words))
  table = np.where(stops.table >= stops.first_accept, 0, stops.table)
  return dataclasses.replace(stops, table=table)


@dataclasses.dataclass(frozen=True)
class _Words:
  token_bytes: tuple[bytes, ...]
  eos_ids: tuple[int, ...] = ()


class Replay:
  """Stands where a rollout has its `Dialogue`; ids of prompts and answers are random."""

  def __init__(self, scripts: Sequence[Script], vocab: int):
    self._scripts, self._vocab = scripts, vocab

  def prompt(self, task: Task) -> np.ndarray:
    return self._ids(self._script(task).prompt, task.position)

  def budget(self, row: Row) -> int:
    return self._turn(row).policy - len(row.open_ids)

  def key(self, row: Row) -> np.ndarray:
    return row.key(seed=0)

  def pause(self, row: Row, automaton: int, top_k: int) -> SearchRequest | Status:
    del automaton
    row.close_segment()
    turn = len(row.turns)
    if turn + 1 == len(self._script(row.task).turns):
      return Status.ANSWER
    return SearchRequest(
      row.task.name, turn, row.attempt, ('',), top_k, row.task.question.id, 0.0, key=0
    )

  def answer(self, row: Row, result: SearchResult) -> Append:
    ids = self._ids(self._turn(row).observation, int(row.task.question.id), 1 + len(row.turns))
    row.turns.append(Turn(('',), (), 0, result.outcome, result.latency_s, len(row.segments)))
    return Append(ids, answers=True)

  def _script(self, task: Task) -> Script:
    return self._scripts[int(task.question.id)]

  def _turn(self, row: Row) -> traces.Turn:
    return self._script(row.task).turns[len(row.turns)]

  def _ids(self, count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, self._vocab, count).astype(np.int32)


class Delays:
  """Stands where a rollout has its pool: each answer arrives after the trace's latency."""

  def __init__(self, scripts: Sequence[Script]):
    self._scripts = scripts
    self._due: list[tuple[float, str, SearchRequest]] = []

  @property
  def pending(self) -> int:
    return len(self._due)

  def submit(self, request: SearchRequest) -> None:
    heapq.heappush(self._due, (time.monotonic() + self._latency(request), *_named(request)))

  def poll(self, timeout_s: float) -> list[tuple[SearchRequest, SearchResult]]:
    if self._due:
      time.sleep(max(0.0, min(timeout_s, self._due[0][0] - time.monotonic())))
    return self._arrived(time.monotonic())

  def _latency(self, request: SearchRequest) -> float:
    return self._scripts[int(request.question_id)].turns[request.turn].latency_s

  def _arrived(self, now: float) -> list[tuple[SearchRequest, SearchResult]]:
    arrived = []
    while self._due and self._due[0][0] <= now:
      request = heapq.heappop(self._due)[-1]
      arrived.append((request, SearchResult(Outcome.OK, latency_s=self._latency(request))))
    return arrived


class Barrier(Delays):
  """All searches of a turn begin when every row has asked, and their answers come together."""

  def submit(self, request: SearchRequest) -> None:
    heapq.heappush(self._due, (self._latency(request), *_named(request)))

  def poll(self, timeout_s: float) -> list[tuple[SearchRequest, SearchResult]]:
    if not timeout_s:  # Rows are still running.
      return []
    time.sleep(max(latency_s for latency_s, *_ in self._due))
    return self._arrived(np.inf)


class Reprefill(Extender):
  """Throws a row's cache away when it goes on, as a new request to a server does."""

  def extend(
    self, row: Row, start: int, ids: np.ndarray, left: int, key: np.ndarray, temperature: float
  ) -> object:
    del start, ids
    context = np.concatenate([segment.ids for segment in row.segments])
    return super().extend(row, 0, context[:-1], left, key, temperature)


def _named(request: SearchRequest) -> tuple[str, SearchRequest]:
  return request.trajectory, request
