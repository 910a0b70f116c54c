"""One trajectory in the making: the host's record of a row."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from jaxsearch.types import Context, Kind, Segment, Span, Status, Task, Trajectory, Turn


class State(enum.Enum):
  """Who works for a row: the decode program or the retriever pool."""

  RUNNING = enum.auto()
  SEARCHING = enum.auto()


@dataclasses.dataclass
class Row:
  """Appends to a context; every id, kind and log-probability is recorded here when it is made.

  Attributes:
    task: what is rolled out.
    attempt: restarts because of infrastructure.
    slot: global slot of the engine.
    prompt: int32 ids.
    state: who works for it.
    queries: of the search under way.
  """

  task: Task
  attempt: int
  slot: int
  prompt: np.ndarray
  state: State = State.RUNNING
  queries: tuple[str, ...] = ()
  segments: list[Segment] = dataclasses.field(default_factory=list)
  turns: list[Turn] = dataclasses.field(default_factory=list)
  spans: list[Span] = dataclasses.field(default_factory=list)
  length: int = 0
  policy_tokens: int = 0
  _ids: list[np.ndarray] = dataclasses.field(default_factory=list)
  _logprobs: list[np.ndarray] = dataclasses.field(default_factory=list)

  def __post_init__(self) -> None:
    self.append(Kind.PROMPT, self.prompt)

  @property
  def pending(self) -> int:
    """Last id of the context: the one that the cache does not hold yet."""
    return int(self._ids[-1][-1] if self._ids else self.segments[-1].ids[-1])

  def append(self, kind: Kind, ids: np.ndarray) -> None:
    """Adds a segment that the policy did not write."""
    self.segments.append(Segment(kind, ids))
    self.length += len(ids)

  def sampled(self, ids: np.ndarray, logprobs: np.ndarray) -> None:
    """Adds ids to the policy segment that is being written."""
    self._ids.append(ids)
    self._logprobs.append(logprobs)
    self.length += len(ids)
    self.policy_tokens += len(ids)

  def close_segment(self) -> np.ndarray:
    """Ends the policy segment and returns its ids."""
    segment = Segment(Kind.POLICY, np.concatenate(self._ids), np.concatenate(self._logprobs))
    self.segments.append(segment)
    self._ids, self._logprobs = [], []
    return segment.ids

  def trajectory(self, status: Status) -> Trajectory:
    context = Context(tuple(self.segments), tuple(self.turns), tuple(self.spans))
    return Trajectory(self.task, status, (context,), self.attempt)
