"""R1-Searcher's single stage as its code for Qwen has it (reward_server_qwen_zero.py).

F1 of the answer, less 2, once, for any of: bad format; an answer of more than ten words; the word
"assistant" in what the policy wrote; a Chinese, Japanese or Korean character there. An accepted
answer of more than ten words is punished as well, as it is in the original.
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one

_MOST_WORDS = 10


@one_by_one
def reward(judged: Judgement) -> float:
  """-2 to 1."""
  is_fine = (
    judged.is_well_formed
    and len((judged.answer or '').split()) <= _MOST_WORDS
    and 'ssistant' not in judged.written
    and not judged.has_foreign_script
  )
  return judged.f1 - (0.0 if is_fine else 2.0)
