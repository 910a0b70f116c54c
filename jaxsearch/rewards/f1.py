"""The reward of ZeroSearch (arXiv 2505.04588, 3.5): F1 of the last answer, no format gate."""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """0 to 1."""
  return judged.f1
