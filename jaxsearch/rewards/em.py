"""The reward of Search-R1 (arXiv 2503.09516): 1 if the last answer matches exactly, else 0."""

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
  return [j.named(j.em) for j in judged]
