"""The reward of SSRL (arXiv 2508.10874): 0.9 exact match and 0.1 format.

  format    min(thoughts / 2, 1) * min(thoughts, searches + 1) / max(thoughts, searches + 1)

of a well-formed response, 0 of any other: one thought earns half of it, and there should be one
thought more than searches, as the released code has it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._judge import judge
from jaxsearch.types import Kind, Question, Response


def reward(
  question: Question, responses: Sequence[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """Scores all rollouts of one question."""
  return [_score(question, response, protocol) for response in responses]


def _score(question: Question, response: Response, protocol: Protocol) -> dict[str, float]:
  judged = judge(question, response, protocol)
  written = [text.encode() for kind, text in response.parts if kind is Kind.POLICY]
  spans = collections.Counter(name for data in written for name, *_ in protocol.spans(data))
  thoughts, wanted = spans['think'], spans['query'] + 1
  form = min(thoughts / 2, 1.0) * min(thoughts, wanted) / max(thoughts, wanted)
  return judged.named(0.9 * judged.em + 0.1 * form * judged.is_well_formed)
