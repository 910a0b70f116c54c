"""R1-Searcher's first stage, as in the paper (arXiv 2503.05592, 2.2.1): searching and format.

0.5 for at least one search that was answered, 0.5 for the format. The answer does not count: the
policy learns to call the retriever. `r1_searcher_stage1_llama` is what the released code does.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import judge
from jaxsearch.types import Question, Response


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  return [_score(question, response, protocol) for response in responses]


def _score(question: Question, response: Response, protocol: Protocol) -> dict[str, float]:
  judged = judge(question, response, protocol)
  has_searched = any(turn.queries for turn in response.turns)
  return judged.named(0.5 * has_searched + 0.5 * judged.is_well_formed)
