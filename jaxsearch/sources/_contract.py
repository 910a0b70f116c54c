"""What a source file offers: `open(questions, seed, state) -> Source`.

`state` is None for a new run, else what `state()` returned when the checkpoint was made that the
run goes on from: a source that is opened with it gives what the first one would have given next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from jaxsearch.types import Question


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of one question.

  Attributes:
    question: its id.
    right: rollouts that answered it exactly.
    rollouts: that count: those lost to the infrastructure do not.
  """

  question: str
  right: int
  rollouts: int


class Source(Protocol):
  """The same on every host: all draw alike and are told alike."""

  def take(self, start: int, n: int) -> list[Question]:
    """The next `n` questions of all hosts together; `start` were taken before."""
    ...

  def feedback(self, results: Sequence[Result]) -> None:
    """What became of the questions that were taken last, in their order."""
    ...

  def state(self) -> Any:
    """What JSON can hold and `open` takes."""
    ...
