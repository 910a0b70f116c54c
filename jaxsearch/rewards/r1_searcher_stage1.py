"""R1-Searcher's first stage, as in the paper (arXiv 2503.05592, 2.2.1): searching and format.

0.5 for at least one search that was answered, 0.5 for the format. The answer does not count: the
policy learns to call the retriever. `r1_searcher_stage1_llama` is what the released code does.
"""

from __future__ import annotations

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """0, 0.5 or 1."""
  return 0.5 * judged.has_searched + 0.5 * judged.is_well_formed
