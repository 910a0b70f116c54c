"""The reward of ZeroSearch (arXiv 2505.04588, 3.5): F1 of the last answer, no format gate."""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import judge
from jaxsearch.types import Question, Response


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  judged = [judge(question, response, protocol) for response in responses]
  return [j.named(j.f1) for j in judged]
