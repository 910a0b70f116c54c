"""How a row's cache is made once more after it was given up.

To the bit: every token goes through the program that first wrote it, sampled ones by decode, which
is told what to sample, and all others by extend in the chunks of then. Or in one piece, by extend
alone, which is faster and differs in the last bits.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxsearch.rollout.row import Row
from jaxsearch.types import Kind

_NO_IDS = np.zeros(0, np.int32)


@dataclasses.dataclass
class Part:
  """Ids that are fed behind the first `start` tokens, and those that are sampled after `pending`.

  `left` is how many tokens may be sampled in all; `forced` says which ones come first, `automaton`
  in which state of the stop table.
  """

  start: int
  fed: np.ndarray
  pending: int
  left: int
  forced: np.ndarray = dataclasses.field(default_factory=lambda: _NO_IDS)
  automaton: int = 0


def whole(row: Row, left: int) -> Part:
  """All of a row's context at once; it may sample `left` tokens then."""
  ids = np.concatenate([*(segment.ids for segment in row.segments), row.open_ids])
  return Part(0, ids[:-1], int(ids[-1]), left, automaton=row.automaton)


def parts(row: Row, left: int) -> list[Part]:
  """A row's context as it came about; with the last part it may sample `left` new tokens."""
  stretches = [(segment.kind is Kind.POLICY, segment.ids) for segment in row.segments]
  if len(row.open_ids):
    stretches.append((True, row.open_ids))
  made: list[Part] = []
  pending = _NO_IDS
  start = 0
  for sampled, ids in stretches:
    if sampled:
      if len(made[-1].forced):  # It stopped, and went on behind nothing.
        made.append(Part(start, _NO_IDS, int(pending[0]), 0))
      made[-1].forced, made[-1].left = ids, len(ids)
      start += len(ids)
    else:
      assert not made or len(made[-1].forced), 'what is fed stands between what is sampled'
      fed = np.concatenate([pending, ids])
      made.append(Part(start, fed[:-1], int(fed[-1]), 0))
      start += len(fed) - 1
    pending = ids[-1:]
  if len(made[-1].forced) and not len(row.open_ids):
    made.append(Part(start, _NO_IDS, int(pending[0]), 0))
  made[-1].left += left
  return made
