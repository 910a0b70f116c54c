"""The later reward of Search-R1 (its v0.3): exact match, with some credit for the format.

                        well-formed    not
  exact match           1              0.8
  another answer        0.2            0.1
  no answer             0              0

Its retrieval score is left out, for it is 0 there. Mended: the original reads prompt and response
together, so that a rollout without an answer is paid for the example in its prompt.
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """See the table above."""
  if judged.answer is None:
    return 0.0
  if judged.em:
    return 1.0 if judged.is_well_formed else 0.8
  return 0.2 if judged.is_well_formed else 0.1
