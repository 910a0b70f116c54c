"""R1-Searcher's second stage as its code for Llama has it: F1, -1 for bad format or foreign script.

Foreign script is a Chinese, Japanese or Korean character that the policy wrote
(reward_server_llama_stage2.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import has_foreign_script, judge
from jaxsearch.types import Question, Response


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  return [_score(question, response, protocol) for response in responses]


def _score(question: Question, response: Response, protocol: Protocol) -> dict[str, float]:
  judged = judge(question, response, protocol)
  is_fine = judged.is_well_formed and not has_foreign_script(response)
  return judged.named(judged.f1 - (0.0 if is_fine else 1.0))
