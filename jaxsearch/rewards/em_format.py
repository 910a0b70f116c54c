"""The later reward of Search-R1 (its v0.3): exact match, with some credit for the format.

                        well-formed    not
  exact match           1              0.8
  another answer        0.2            0.1
  no answer             0              0

Its retrieval score is left out, for it is 0 there. Mended: the original reads prompt and response
together, so that a rollout without an answer is paid for the example in its prompt.
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
  if judged.answer is None:
    return judged.named(0.0)
  if judged.em:
    return judged.named(1.0 if judged.is_well_formed else 0.8)
  return judged.named(0.2 if judged.is_well_formed else 0.1)
