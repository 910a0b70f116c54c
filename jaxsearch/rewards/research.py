"""The reward of ReSearch, in the order of the gates of its code (which differs from the paper).

  1. bad format                      0
  2. not ended by end of text        0
  3. no box that can be read         0
  4. F1 with the best golden answer  F1 if it is above 0
  5. otherwise                       0.1

The paper pays F1 for a badly formed response too; its code, and we, do not. An answer with an F1
between 0 and 0.1 earns less than a wholly wrong one, and an empty box counts as a wrong answer:
both are the code's. What is ours: the response is known instead of cut out of prompt and response;
any end-of-text id of the tokenizer counts, not one of them; documents are not read for tags.

Beside the reward stand strict EM, cover EM and F1 of the answer and the format gate. These
measures look at the answer even where a gate fails, so that they say what the policy knew.
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one
from jaxsearch.types import Status

_FLOOR = 0.1


@one_by_one
def reward(judged: Judgement) -> float:
  """0 to 1; a rollout that the infrastructure broke off scores 0 throughout."""
  is_ended = judged.response.status is Status.EOS
  passes = judged.is_well_formed and is_ended and judged.answer is not None
  return (judged.f1 or _FLOOR) if passes else 0.0
