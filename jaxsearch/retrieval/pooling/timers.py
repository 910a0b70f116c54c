"""What the pool's thread does later: a heap of actions."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


def pause_s(failures: int) -> float:
  """Longest pause before what has failed so often is tried again; doubled each time."""
  return min(_PAUSE_S * 2**failures, _LONGEST_PAUSE_S)


class Timers:
  """Actions with one argument each, in the order of their times (`time.monotonic()`)."""

  def __init__(self) -> None:
    self._heap: list[tuple[float, int, Callable[..., None], Any]] = []
    self._numbers = itertools.count()

  def at(self, when: float, action: Callable[..., None], argument: Any) -> None:
    """Has `action(argument)` called by `run_due` once it is `when`."""
    heapq.heappush(self._heap, (when, next(self._numbers), action, argument))

  def wait_s(self) -> float | None:
    """Seconds until the next action, at least 0; None if there is none."""
    return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

  def run_due(self) -> None:
    """Calls what is due, what that adds included."""
    while self._heap and self._heap[0][0] <= time.monotonic():
      _, _, action, argument = heapq.heappop(self._heap)
      action(argument)
