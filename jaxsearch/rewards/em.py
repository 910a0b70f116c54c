"""The reward of Search-R1 (arXiv 2503.09516): 1 if the last answer matches exactly, else 0."""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """1 or 0."""
  return judged.em
