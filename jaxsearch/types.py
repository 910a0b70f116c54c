"""The records that flow through jaxsearch, in the order in which they are made.

  Question -> Task -> Trajectory -> rewards -> advantages -> Batch -> update -> metrics

Everything here is plain host data, without JAX. Two invariants are stated once and hold everywhere:

* the concatenated ids of a context's segments are exactly what the model was fed;
* whether an id was sampled, and with which log-probability, is recorded when it is made and
  never reconstructed from text or from padding.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


class UserError(ValueError):
  """Something the user can mend. The command line prints the message and exits with code 2.

  The message names the thing, its value, what is allowed and the next step.
  """


@dataclasses.dataclass(frozen=True)
class Question:
  """One line of a question file (FlashRAG shape).

  Attributes:
    id: unique within its file.
    text: the question as the policy reads it.
    golden_answers: every accepted answer; none if nobody knows it (`ask`).
    metadata: privileged facts (hops, chain, …). Training never reads it; reports do.
  """

  id: str
  text: str
  golden_answers: tuple[str, ...]
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Document:
  """A passage as a retriever returns it. `score` is larger for better matches."""

  id: str
  title: str
  text: str
  score: float = 0.0


class Outcome(enum.StrEnum):
  """How one search ended."""

  OK = 'ok'
  EMPTY = 'empty'  # The retriever worked and found nothing.
  PARTIAL = 'partial'  # Some shards or queries answered in time.
  BAD_QUERY = 'bad_query'  # Empty, unclosed or over-long: the policy's fault.
  TIMEOUT = 'timeout'
  OVERLOADED = 'overloaded'
  ERROR = 'error'

  @property
  def is_infra(self) -> bool:
    """True if the infrastructure is to blame: the turn is retried and never trained."""
    return self in (Outcome.TIMEOUT, Outcome.OVERLOADED, Outcome.ERROR)


@dataclasses.dataclass(frozen=True)
class SearchRequest:
  """What a retrieval backend is asked.

  Attributes:
    trajectory: id of the asking trajectory, `Task.name`.
    turn: index of the search within the trajectory, from 0.
    attempt: how often this trajectory was restarted because of infrastructure.
    queries: one or several queries.
    top_k: documents wanted per query.
    question_id: `Question.id` of the row that asks.
    progress: share of training done, 0 to 1 (curricula read it).
    key: 64 random bits of this request; the only randomness a backend may use.
    embeddings: float32 [queries, dimensions], by the encoder of the backend, if it has one.
  """

  trajectory: str
  turn: int
  attempt: int
  queries: tuple[str, ...]
  top_k: int
  question_id: str
  progress: float
  key: int
  embeddings: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class SearchResult:
  """A backend's answer: `documents[i]` are those of `queries[i]`, best first."""

  outcome: Outcome
  documents: tuple[tuple[Document, ...], ...] = ()
  latency_s: float = 0.0
  message: str = ''


@dataclasses.dataclass(frozen=True)
class Task:
  """One rollout to make.

  Attributes:
    question: what is asked.
    position: of the question in the run's sequence of questions, over all steps and hosts.
    sample: index within the group of rollouts of this question.
    step: training step at whose start the trajectory is born (its weights).
    progress: share of training done, 0 to 1.
  """

  question: Question
  position: int
  sample: int
  step: int
  progress: float = 0.0

  @property
  def name(self) -> str:
    return f'{self.step}.{self.position}.{self.sample}'


class Kind(enum.StrEnum):
  """Who wrote a segment."""

  PROMPT = 'prompt'
  POLICY = 'policy'
  OBSERVATION = 'observation'


@dataclasses.dataclass(frozen=True)
class Segment:
  """The ids that one writer appended; nothing else stores them.

  Attributes:
    kind: who wrote them.
    ids: int32 [n].
    logprobs: float32 [n] for POLICY, from the very distribution each id was drawn from, or None.
  """

  kind: Kind
  ids: np.ndarray
  logprobs: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Span:
  """A named stretch of one POLICY segment, made when its tokens were.

  Attributes:
    name: 'think', 'query', 'answer', …; the protocol names them.
    segment: index of the segment in its context.
    start, stop: byte range within the segment's bytes.
    first, last: the segment's ids from `first` up to `last` hold a byte of that range.
  """

  name: str
  segment: int
  start: int
  stop: int
  first: int
  last: int


@dataclasses.dataclass(frozen=True)
class Turn:
  """One search of a trajectory.

  Attributes:
    queries: what was asked; empty when the policy's tag held nothing.
    documents: per query, best first, as the backend gave them.
    shown: how many documents of each query fitted into the observation.
    outcome: how the search ended.
    latency_s: seconds from submission to answer.
    segment: index of the OBSERVATION segment that holds the answer.
  """

  queries: tuple[str, ...]
  documents: tuple[tuple[Document, ...], ...]
  shown: int
  outcome: Outcome
  latency_s: float
  segment: int


@dataclasses.dataclass(frozen=True)
class Context:
  """One sequence that the model was fed, with the turns and spans found in it.

  `owners` are the `row_id`s of the rows that sampled its POLICY segments: the rollouts of a tree
  share their first ones.
  """

  segments: tuple[Segment, ...]
  turns: tuple[Turn, ...] = ()
  spans: tuple[Span, ...] = ()
  owners: tuple[int, ...] = ()

  @property
  def length(self) -> int:
    return sum(len(s.ids) for s in self.segments)

  def count(self, kind: Kind) -> int:
    """Number of ids that `kind` wrote."""
    return sum(len(s.ids) for s in self.segments if s.kind is kind)

  @property
  def ids(self) -> np.ndarray:
    """int32 [length]."""
    return np.concatenate([s.ids for s in self.segments]).astype(np.int32)

  @property
  def sampled_mask(self) -> np.ndarray:
    """bool [length]: true exactly on ids that the policy sampled. A fact, not a choice."""
    return np.concatenate([np.full(len(s.ids), s.kind is Kind.POLICY) for s in self.segments])

  @property
  def logprobs(self) -> np.ndarray:
    """float32 [length]: the sampler's log-probabilities, 0 where nothing was sampled."""
    parts = [np.zeros(len(s.ids)) if s.logprobs is None else s.logprobs for s in self.segments]
    return np.concatenate(parts).astype(np.float32)


def row_id(sample: int, attempt: int) -> int:
  """Names a row among those of its question: a restart is another row."""
  return attempt << 20 | sample


class Status(enum.StrEnum):
  """Why a trajectory ended."""

  EOS = 'eos'
  ANSWER = 'answer'
  TURN_CAP = 'turn_cap'
  POLICY_TOKEN_CAP = 'policy_token_cap'
  CONTEXT_CAP = 'context_cap'
  INFRA = 'infra'
  ABORTED = 'aborted'


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One rollout of one question: what was fed, what was searched, how it ended.

  Attributes:
    task, status: what was asked for, and why it ended.
    contexts: one, unless a method branches or rewrites its memory.
    attempt: restarts because of infrastructure.
    rewards: named numbers, filled in after scoring; `reward` is the one that is trained on.
  """

  task: Task
  status: Status
  contexts: tuple[Context, ...]
  attempt: int = 0
  rewards: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def turns(self) -> tuple[Turn, ...]:
    return tuple(turn for context in self.contexts for turn in context.turns)

  @property
  def generated(self) -> int:
    """Ids that its own row sampled, without lost attempts; a tree's first ones may be another's."""
    me = row_id(self.task.sample, self.attempt)
    counts = [
      (owner, len(segment.ids))
      for c in self.contexts
      for owner, segment in zip(c.owners, (s for s in c.segments if s.kind is Kind.POLICY))
    ]
    return sum(n for owner, n in counts if owner == me)

  @property
  def is_infra(self) -> bool:
    return self.status is Status.INFRA


@dataclasses.dataclass(frozen=True)
class Response:
  """What a reward may read: the response, never the prompt.

  Attributes:
    parts: (kind, text) of each POLICY and OBSERVATION segment, in order.
    status: why the trajectory ended.
    turns: its searches.
  """

  parts: tuple[tuple[Kind, str], ...]
  status: Status
  turns: tuple[Turn, ...]
