"""R1-Searcher's first stage as its code for Llama has it (reward_server_llama_stage1.py).

  +1 if every word of an accepted answer is in the given one, in any order; else, or without an
     answer, -1
  +0.5 if there was at least one search
  +0.5 for the format, which invented documents break (in the code they cost the other half)

So the answer does count, unlike in the paper. From -1 to 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import judge
from jaxsearch.text import answers
from jaxsearch.types import Question, Response


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  return [_score(question, response, protocol) for response in responses]


def _score(question: Question, response: Response, protocol: Protocol) -> dict[str, float]:
  judged = judge(question, response, protocol)
  has_searched = any(turn.queries for turn in response.turns)
  covered = answers.bag_match(judged.answer, question.golden_answers)
  value = (1.0 if covered else -1.0) + 0.5 * has_searched + 0.5 * judged.is_well_formed
  return judged.named(value)
