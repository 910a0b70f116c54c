"""Questions that are answered seldom are asked often: Kimi k1.5 (arXiv 2501.12599, section 2.3.4).

A question is drawn with a probability proportional to 1 - s, s being the share of right answers
among all rollouts of it so far, 0 while there are none. No question is twice in one draw, so that a
question that is always answered comes up only when too few others are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxsearch.sources._contract import Result
from jaxsearch.types import Question

# Of a question that is always answered, so that it can still be drawn.
_LEAST = 1e-6


class Prioritized:
  """See `_contract.Source`."""

  def __init__(
    self, questions: Sequence[Question], seed: int, tallies: Mapping[str, Sequence[int]]
  ):
    self._questions, self._seed = list(questions), seed
    self._tallies = {name: (right, rollouts) for name, (right, rollouts) in tallies.items()}

  def take(self, start: int, n: int) -> list[Question]:
    """Draws without replacement; with fewer than `n` questions, all of them and then again."""
    rng = np.random.default_rng((self._seed, start))
    shares = self._shares()
    drawn: list[int] = []
    while len(drawn) < n:
      size = min(n - len(drawn), len(shares))
      drawn += rng.choice(len(shares), size, replace=False, p=shares).tolist()
    return [self._questions[i] for i in drawn]

  def feedback(self, results: Sequence[Result]) -> None:
    """Adds to the tally of each question."""
    for result in results:
      right, rollouts = self._tallies.get(result.question, (0, 0))
      self._tallies[result.question] = (right + result.right, rollouts + result.rollouts)

  def state(self) -> dict[str, list[int]]:
    """Question id -> right answers, rollouts."""
    return {name: list(tally) for name, tally in self._tallies.items()}

  def _shares(self) -> np.ndarray:
    tallies = np.array([self._tallies.get(q.id, (0, 0)) for q in self._questions], float)
    weights = np.maximum(1 - tallies[:, 0] / np.maximum(tallies[:, 1], 1), _LEAST)
    return weights / weights.sum()


def open(
  questions: Sequence[Question], seed: int, state: Mapping[str, Sequence[int]] | None
) -> Prioritized:
  """Goes on from `state`, or knows nothing yet."""
  return Prioritized(questions, seed, state or {})
