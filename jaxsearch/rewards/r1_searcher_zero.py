"""R1-Searcher's single stage as its code for Qwen has it (reward_server_qwen_zero.py).

F1 of the answer, less 2, once, for any of: bad format; an answer of more than ten words; the word
"assistant" in what the policy wrote; a Chinese, Japanese or Korean character there. An accepted
answer of more than ten words is punished as well, as it is in the original.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import has_foreign_script, judge
from jaxsearch.types import Kind, Question, Response

_MOST_WORDS = 10


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  return [_score(question, response, protocol) for response in responses]


def _score(question: Question, response: Response, protocol: Protocol) -> dict[str, float]:
  judged = judge(question, response, protocol)
  written = ' '.join(text for kind, text in response.parts if kind is Kind.POLICY)
  is_fine = (
    judged.is_well_formed
    and len((judged.answer or '').split()) <= _MOST_WORDS
    and 'ssistant' not in written
    and not has_foreign_script(response)
  )
  return judged.named(judged.f1 - (0.0 if is_fine else 2.0))
