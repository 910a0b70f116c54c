"""What all engines are asked to do, and the loop that those without a cache of their own have."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsearch.bench.traces import Script

Option = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
  """What all engines are asked to do.

  Attributes:
    model: name in jaxsearch/models/sizes.py.
    dtype: of weights and cache.
    rows: that an engine may hold at a time.
    scripts: the longest work that comes.
  """

  model: str
  dtype: str
  rows: int
  scripts: Sequence[Script]

  @property
  def longest(self) -> int:
    return max(script.length for script in self.scripts)

  def fewer_rows(self) -> int:
    """Half of the rows: turn by turn, fewer wait for the longest of them."""
    return max(1, self.rows // 2)


def sampled(scripts: Sequence[Script]) -> int:
  """Tokens that a replay of these scripts samples."""
  return sum(script.policy for script in scripts)


class TurnByTurn:
  """The loop of tool training on a batch generator: a turn for all rows, searches, the next turn.

  Every turn sends the whole context again. With `refill` a finished trajectory's place goes to the
  next one at once, otherwise when the whole batch is done.
  """

  _vocab: int
  _option: Option

  def replay(self, scripts: Sequence[Script]) -> int:
    waiting = list(enumerate(scripts))
    rows: list[tuple[int, Script, int, list[int]]] = []
    total = 0
    while rows or waiting:
      if not rows or self._option['refill']:
        while waiting and len(rows) < self._option['rows']:
          place, script = waiting.pop(0)
          rows.append((place, script, 0, ids(self._vocab, script.prompt, script.question)))
      steps = [script.turns[turn].policy for _, script, turn, _ in rows]
      written = self._generate([context for *_, context in rows], max(steps))
      time.sleep(max(script.turns[turn].latency_s for _, script, turn, _ in rows))
      going = []
      for (place, script, turn, context), new, count in zip(rows, written, steps, strict=True):
        total += len(new[:count])
        if turn + 1 < len(script.turns):
          seen = ids(self._vocab, script.turns[turn].observation, place, turn)
          going.append((place, script, turn + 1, context + new[:count] + seen))
      rows = going
    return total

  def close(self) -> None:
    pass


def ids(vocab: int, count: int, *seed: int) -> list[int]:
  """As many random ids, none of them special."""
  return np.random.default_rng(seed).integers(3, vocab, count).tolist()
