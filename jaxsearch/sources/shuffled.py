"""All questions in a shuffled order that starts anew, and differently, after each pass."""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.sources._contract import Result
from jaxsearch.types import Question


class Shuffled:
  """See `_contract.Source`. A function of how many were taken: there is nothing to keep."""

  def __init__(self, questions: Sequence[Question], seed: int):
    import grain  # It imports JAX, which whoever only names a source must not.

    self._order = grain.MapDataset.source(list(questions)).seed(seed).shuffle().repeat()

  def take(self, start: int, n: int) -> list[Question]:
    """The questions at the positions from `start` on."""
    return [self._order[position] for position in range(start, start + n)]

  def feedback(self, results: Sequence[Result]) -> None:
    """Changes nothing."""

  def state(self) -> None:
    """Nothing."""


def open(questions: Sequence[Question], seed: int, state: None) -> Shuffled:
  """Shuffles `questions` (at least one) by `seed`."""
  del state
  return Shuffled(questions, seed)
