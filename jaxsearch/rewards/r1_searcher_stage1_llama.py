"""R1-Searcher's first stage as its code for Llama has it (reward_server_llama_stage1.py).

  +1 if every word of an accepted answer is in the given one, in any order; else, or without an
     answer, -1
  +0.5 if there was at least one search
  +0.5 for the format, which invented documents break (in the code they cost the other half)

So the answer does count, unlike in the paper. From -1 to 2.
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one
from jaxsearch.text import answers


@one_by_one
def reward(judged: Judgement) -> float:
  """-1 to 2."""
  covered = answers.bag_match(judged.answer, judged.question.golden_answers)
  return (1.0 if covered else -1.0) + 0.5 * judged.has_searched + 0.5 * judged.is_well_formed
