"""R1-Searcher's second stage, as in the paper (arXiv 2503.05592, 2.2.1): F1, -2 for bad format."""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """-2 to 1."""
  return judged.f1 - (0.0 if judged.is_well_formed else 2.0)
