"""The reward of SSRL (arXiv 2508.10874): 0.9 exact match and 0.1 format.

  format    min(thoughts / 2, 1) * min(thoughts, searches + 1) / max(thoughts, searches + 1)

of a well-formed response, 0 of any other: one thought earns half of it, and there should be one
thought more than searches, as the released code has it.
"""

from __future__ import annotations

import collections

from jaxsearch.rewards._judge import Judgement, one_by_one


@one_by_one
def reward(judged: Judgement) -> float:
  """0 to 1."""
  found = judged.protocol.spans(judged.written.encode())
  spans = collections.Counter(name for name, *_ in found)
  thoughts, wanted = spans['think'], spans['query'] + 1
  form = min(thoughts / 2, 1.0) * min(thoughts, wanted) / max(thoughts, wanted)
  return 0.9 * judged.em + 0.1 * form * judged.is_well_formed
