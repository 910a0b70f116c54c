"""What becomes of a row when it stops sampling: the protocol's word, within the caps of a run.

The sampler knows slots and programs, this file knows what a pause means. Whatever offers the same
five methods can drive a sampler: `bench.replay` forces the lengths of recorded trajectories.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.protocols import _contract
from jaxsearch.rollout import observation
from jaxsearch.rollout.row import Row
from jaxsearch.text.stops import StopTable
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Outcome, SearchRequest, SearchResult, Span, Status, Task, Turn


@dataclasses.dataclass(frozen=True)
class Append:
  """Go on behind `ids` (int32 [n], not the policy's); the answer to a search may part rollouts."""

  ids: np.ndarray
  answers: bool = False


class Dialogue:
  """Speaks one protocol with every row of a sampler."""

  def __init__(
    self,
    protocol: _contract.Protocol,
    tokenizer: Tokenizer,
    stops: StopTable,
    rollout: config_lib.Rollout,
    *,
    seed: int,
  ):
    self._protocol, self._tokenizer, self._stops = protocol, tokenizer, stops
    self._rollout, self._seed = rollout, seed

  def prompt(self, task: Task) -> np.ndarray:
    """int32 [n]: what a new row is fed."""
    return self._protocol.prompt_ids(task.question)

  def budget(self, row: Row) -> int:
    """Tokens that the row may sample before its next pause; 0: its context is full."""
    left = self._left(row)
    turn = self._rollout.turn_tokens
    return min(left, turn - len(row.open_ids)) if turn else left

  def key(self, row: Row) -> np.ndarray:
    """uint32 [2]: what the row's tokens are drawn with."""
    return row.key(self._seed)

  def pause(self, row: Row, automaton: int, top_k: int) -> Append | SearchRequest | Status:
    """The row stopped sampling: at a stop, or because nothing was left to sample.

    Args:
      row: its last segment is closed here.
      automaton: state of the stop table.
      top_k: documents that a search asks for.
    """
    stop = automaton - self._stops.first_accept
    name = self._stops.names[stop] if stop >= 0 else None
    ids = row.close_segment()
    data = self._tokenizer.bytes_of(ids)
    row.spans += [
      Span(span, len(row.segments) - 1, *at, *self._tokenizer.range_of(ids, *at))
      for span, *at in self._protocol.spans(data)
    ]
    is_spent = self._left(row) <= 0
    match None if name is None and is_spent else self._protocol.at_pause(data, name):
      case _contract.Finish(status):
        return status
      case _ if is_spent:  # Nothing could be written behind an answer.
        capped = row.policy_tokens >= self._rollout.policy_tokens
        return Status.POLICY_TOKEN_CAP if capped else Status.CONTEXT_CAP
      case _ if len(row.turns) + row.notices >= self._rollout.max_searches:
        return Status.TURN_CAP
      case _contract.Notice(text):
        row.notices += 1
        return self._append(row, self._tokenizer.encode(text))
      case _contract.Search(queries):
        row.queries = queries
        if queries:
          return self._request(row, top_k)
        return self.answer(row, SearchResult(Outcome.BAD_QUERY))

  def answer(self, row: Row, result: SearchResult) -> Append | Status:
    """A search's answer, with as many documents as leave room for one more token."""
    if result.outcome.is_infra:
      self._turn(row, result, shown=0)
      return Status.INFRA
    room = self._rollout.context_tokens - row.length - 1
    encode = lambda some, shown: self._tokenizer.encode(self._protocol.observation(some, shown))
    fitting = observation.fit(result, encode, room, self._rollout.observation_tokens or room)
    if fitting is None:
      self._turn(row, result, shown=0)
      return Status.CONTEXT_CAP
    ids, shown = fitting
    self._turn(row, result, shown)
    return self._append(row, ids, answers=True)

  def _append(self, row: Row, ids: np.ndarray, *, answers: bool = False) -> Append | Status:
    full = row.length + len(ids) >= self._rollout.context_tokens
    return Status.CONTEXT_CAP if full else Append(ids, answers)

  def _request(self, row: Row, top_k: int) -> SearchRequest:
    turn = len(row.turns)
    key = row.key(self._seed, 1 + turn)
    return SearchRequest(
      trajectory=row.task.name,
      turn=turn,
      attempt=row.attempt,
      queries=row.queries,
      top_k=top_k,
      question_id=row.task.question.id,
      progress=row.task.progress,
      key=int(key[0]) << 32 | int(key[1]),
    )

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

  def _left(self, row: Row) -> int:
    room = self._rollout.context_tokens - row.length
    return min(room, self._rollout.policy_tokens - row.policy_tokens)
