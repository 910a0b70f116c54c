"""R1-Searcher's second stage as its code for Llama has it: F1, -1 for bad format or foreign script.

Foreign script is a Chinese, Japanese or Korean character that the policy wrote
(reward_server_llama_stage2.py).
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """-1 to 1."""
  is_fine = judged.is_well_formed and not judged.has_foreign_script
  return judged.f1 - (0.0 if is_fine else 1.0)
