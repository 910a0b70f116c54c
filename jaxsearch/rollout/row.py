"""One trajectory in the making: the host's record of a row."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from jaxsearch.types import Context, Kind, Segment, Span, Status, Task, Trajectory, Turn, row_id

_NO_IDS = np.zeros(0, np.int32)


class State(enum.Enum):
  """Who works for a row: the decode program or the retriever pool."""

  RUNNING = enum.auto()
  SEARCHING = enum.auto()


@dataclasses.dataclass
class Row:
  """Appends to a context; every id, kind and log-probability is recorded here when it is made.

  Attributes:
    tasks: rollouts that have been one so far; the first is rolled out, a search splits them.
    attempt: restarts because of infrastructure.
    slot: global slot of the engine.
    prompt: int32 ids.
    state: who works for it.
    asked_at: when the search under way began, in seconds of the monotonic clock.
    order: of beginning, among all rows of a sampler.
    automaton: state of the stop table within the turn under way.
    cached: whether the cache holds, or is about to be given, what the row has come to.
    queries: of the search under way.
    notices: pauses that were answered with a notice.
  """

  tasks: tuple[Task, ...]
  attempt: int
  slot: int
  prompt: np.ndarray
  state: State = State.RUNNING
  asked_at: float = 0.0
  order: int = 0
  automaton: int = 0
  cached: bool = True
  queries: tuple[str, ...] = ()
  notices: int = 0
  segments: list[Segment] = dataclasses.field(default_factory=list)
  turns: list[Turn] = dataclasses.field(default_factory=list)
  spans: list[Span] = dataclasses.field(default_factory=list)
  owners: list[int] = dataclasses.field(default_factory=list)
  length: int = 0
  policy_tokens: int = 0
  _ids: list[np.ndarray] = dataclasses.field(default_factory=list)
  _logprobs: list[np.ndarray] = dataclasses.field(default_factory=list)

  def __post_init__(self) -> None:
    if not self.segments:
      self.append(Kind.PROMPT, self.prompt)

  @property
  def task(self) -> Task:
    return self.tasks[0]

  @property
  def pending(self) -> int:
    """Last id of the context: the one that the cache does not hold yet."""
    return int(self._ids[-1][-1] if self._ids else self.segments[-1].ids[-1])

  @property
  def open_ids(self) -> np.ndarray:
    """int32 [n]: sampled since the last pause."""
    return np.concatenate([_NO_IDS, *self._ids])

  def key(self, seed: int, use: int = 0) -> np.ndarray:
    """uint32 [2], a function of the rollout's identity alone: nothing process-local enters it.

    Context 0 stands where methods with several contexts put theirs; use 0 is sampling, 1 + turn a
    search.
    """
    words = (seed, self.task.step, self.task.position, self.task.sample, 0, self.attempt, use)
    return np.random.SeedSequence(words).generate_state(2, np.uint32)

  def append(self, kind: Kind, ids: np.ndarray) -> None:
    """Adds a segment that the policy did not write."""
    self.segments.append(Segment(kind, ids))
    self.length += len(ids)

  def sampled(self, ids: np.ndarray, logprobs: np.ndarray, automaton: int) -> None:
    """Adds ids to the policy segment that is being written; they led to this state of the stops."""
    self.automaton = automaton
    self._ids.append(ids)
    self._logprobs.append(logprobs)
    self.length += len(ids)
    self.policy_tokens += len(ids)

  def close_segment(self) -> np.ndarray:
    """Ends the policy segment and returns its ids."""
    segment = Segment(Kind.POLICY, np.concatenate(self._ids), np.concatenate(self._logprobs))
    self.segments.append(segment)
    self.owners.append(row_id(self.task.sample, self.attempt))
    self._ids, self._logprobs, self.automaton = [], [], 0
    return segment.ids

  def branch(self) -> Row:
    """Gives the second half of the tasks to a row of its own that has come as far; it has no slot.

    Between segments only: what is being written belongs to one row.
    """
    middle = -(-len(self.tasks) // 2)
    child = dataclasses.replace(
      self,
      tasks=self.tasks[middle:],
      slot=-1,
      segments=list(self.segments),
      turns=list(self.turns),
      spans=list(self.spans),
      owners=list(self.owners),
      _ids=[],
      _logprobs=[],
    )
    self.tasks = self.tasks[:middle]
    return child

  def trajectory(self, status: Status) -> Trajectory:
    parts = (self.segments, self.turns, self.spans, self.owners)
    context = Context(*map(tuple, parts))
    return Trajectory(self.task, status, (context,), self.attempt)
