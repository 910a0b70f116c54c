"""One stage's processes, and the searches that wait for them.

Requests are sent in micro-batches: whatever waits, the longest waiting first, shared out evenly
over the idle workers, at the latest `retrieval.window_ms` after the first of them came. A failed
request is tried alone, and a failure in company does not count, so that a request that kills its
worker harms only itself and its outcome does not depend on its company. While retries are left, a
batch may use half of the time to its last deadline, then its worker is ended and replaced; the last
try may use all of it. A batch among the slowest (`retrieval.hedge` is their share) is also asked of
a worker that has nothing else to do; the first answer is taken.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

from jaxsearch import config
from jaxsearch.retrieval.pooling import stages
from jaxsearch.retrieval.pooling.entry import Entry
from jaxsearch.retrieval.pooling.link import Link
from jaxsearch.retrieval.pooling.statistics import quantile
from jaxsearch.retrieval.pooling.timers import Timers, pause_s
from jaxsearch.types import Outcome, SearchResult

START_S = 120.0  # Opening a large index on a cold disk takes a while.
_REMEMBERED = 200  # Batches whose times say what is late,
_ENOUGH = 20  # at least so many.
# A worker is not ended before this, or so many times what its slower batches take: a batch may be
# sent shortly before its deadline because all workers were busy, and that is nobody's fault.
_LEAST_S, _LEAST_TIMES = 1.0, 10


class Owner(Protocol):
  """Who decides what becomes of a search."""

  def passed(self, entry: Entry, answer: Any) -> None:
    """The entry's stage has answered."""

  def failed(self, entry: Entry, failure: SearchResult, *, counts: bool) -> None:
    """The entry's stage has failed; `counts`: it was alone in its batch."""

  def deadline(self, entry: Entry) -> float:
    """When its answer is due, on the clock of `time.monotonic()`."""


class Station:
  """The workers of a stage.

  Attributes:
    stage: which one.
    restarts: workers replaced so far.
    hedges: searches asked a second time so far.
  """

  def __init__(
    self,
    stage: stages.Stage,
    links: list[Link],
    settings: config.Retrieval,
    timers: Timers,
    owner: Owner,
  ):
    self.stage = stage
    self.restarts = 0
    self.hedges = 0
    self._settings = settings
    self._timers = timers
    self._owner = owner
    self._idle = list(links)
    self._starting: dict[Link, int] = {}  # Failed starts in a row before this one.
    self._batches: dict[Link, list[Entry]] = {}
    self._sent_at: dict[Link, float] = {}
    self._waiting: list[tuple[float, int, Entry]] = []
    self._numbers = itertools.count()
    self._durations: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
    self._sent = 0
    self._window_ends: float | None = None  # Of those that wait; None if nobody does.

  @property
  def links(self) -> list[Link]:
    """All workers, those that start included."""
    return [*self._idle, *self._starting, *self._batches]

  @property
  def ready(self) -> int:
    """Workers that have opened what they need."""
    return len(self._idle) + len(self._batches)

  def push(self, entry: Entry) -> None:
    """Has the entry wait for a worker."""
    entry.stage, entry.since = self.stage.name, time.monotonic()
    if self._window_ends is None:
      self._window_ends = entry.since + self._settings.window_ms / 1000
      self._timers.at(self._window_ends, lambda _: None, None)  # The thread wakes up and looks.
    heapq.heappush(self._waiting, (entry.submitted, next(self._numbers), entry))

  def dispatch(self) -> None:
    """Sends what may be sent now."""
    while self._idle and self._is_due():
      share = -(-len(self._waiting) // len(self._idle))
      batch = self._take(min(share, self._settings.batch))
      if batch:
        self._send(self._idle.pop(), batch)
      if not self._waiting:
        self._window_ends = None

  def started(self, link: Link) -> None:
    """A worker that was replaced is there."""
    if self._starting.pop(link, None) is not None:
      self._idle.append(link)

  def answered(self, link: Link, read: Callable[[], list[Any]]) -> None:
    """A worker has answered its batch; it gets the next one before the answers are read."""
    if link not in self._batches:
      return  # The last words of a worker that was replaced.
    batch, seconds = self._release(link)
    self._idle.append(link)
    self._durations.append(seconds)
    self.dispatch()
    for entry, answer in zip(batch, read(), strict=True):
      if isinstance(answer, SearchResult) and answer.outcome.is_infra:
        self._fail(entry, answer, counts=len(batch) == 1)
      elif self._wants(entry):
        entry.spend(self.stage.name, seconds)
        self._owner.passed(entry, answer)

  def bury(self, link: Link, failure: SearchResult) -> None:
    """Replaces a worker, at once if it had ever worked; its batch has failed."""
    is_at_work, failed_starts = link in self._batches, self._starting.pop(link, None)
    batch = self._release(link)[0] if is_at_work else []
    if not is_at_work and failed_starts is None:
      if link not in self._idle:
        return  # Replaced already.
      self._idle.remove(link)
    link.kill()
    self.restarts += 1
    starts = 0 if failed_starts is None else failed_starts + 1
    again = time.monotonic() + (pause_s(starts) if starts else 0.0)
    self._timers.at(again, self._start, (link, starts))
    for entry in batch:
      self._fail(entry, failure, counts=len(batch) == 1)

  def _is_due(self) -> bool:
    """Whether those that wait are enough, or have waited for others long enough."""
    if self._window_ends is None:
      return False
    return len(self._waiting) >= self._settings.batch or self._window_ends <= time.monotonic()

  def _take(self, most: int) -> list[Entry]:
    """The next entries that may share a batch.

    Dropped are those that were answered meanwhile, and those that would not be answered in time:
    their own deadline ends them, and the worker is there for others.
    """
    batch: list[Entry] = []
    too_late = time.monotonic() + self._quantile_s(0.5)
    while self._waiting and len(batch) < most:
      entry = self._waiting[0][-1]
      if entry.failure is not None and batch and self._wants(entry):
        break
      heapq.heappop(self._waiting)
      if self._wants(entry) and self._owner.deadline(entry) > too_late:
        batch.append(entry)
        if entry.failure is not None:
          break
    return batch

  def _send(self, link: Link, batch: list[Entry], *, again: bool = False) -> None:
    """Hands over a batch; `again`: another worker has it already."""
    now = time.monotonic()
    for entry in batch:
      entry.copies[self.stage.name] += 1
      if not again:
        entry.spend('queue', now - entry.since)
    self._batches[link], self._sent_at[link] = batch, now
    self._sent += len(batch)
    left_s = max(map(self._owner.deadline, batch)) - now
    has_retries = any(entry.failures < self._settings.retries for entry in batch)
    least_s = max(_LEAST_S, _LEAST_TIMES * self._quantile_s(0.95))
    limit = now + max(left_s / 2 if has_retries else left_s, least_s)
    self._timers.at(limit, self._cut_off, (link, batch))
    late_s = self._quantile_s(1 - self._settings.hedge)
    if late_s and self._settings.hedge and not again:
      self._timers.at(now + late_s, self._hedge, (link, batch))
    link.send([stages.message(self.stage, entry, self._settings) for entry in batch])

  def _quantile_s(self, share: float) -> float:
    """Seconds within which that share of the last batches was answered; 0 if they are too few."""
    if len(self._durations) < _ENOUGH:
      return 0.0
    return quantile(self._durations, share)

  def _release(self, link: Link) -> tuple[list[Entry], float]:
    """A worker's batch, which it does not hold any more, and how long it did."""
    batch = self._batches.pop(link)
    for entry in batch:
      entry.copies[self.stage.name] -= 1
    return batch, time.monotonic() - self._sent_at.pop(link)

  def _hedge(self, sent: tuple[Link, list[Entry]]) -> None:
    """A batch is late: if a worker has nothing else to do, it is asked too."""
    link, batch = sent
    late = [entry for entry in batch if self._wants(entry)]
    if self._batches.get(link) is not batch or not late or not self._idle or self._waiting:
      return
    # That share are late by definition; if many more are, it is no accident and no help.
    if self.hedges + len(late) <= 2 * self._settings.hedge * self._sent:
      self.hedges += len(late)
      self._send(self._idle.pop(), late, again=True)

  def _wants(self, entry: Entry) -> bool:
    """Whether the entry still waits for this stage: another copy may have been faster."""
    return entry.result is None and entry.stage == self.stage.name

  def _fail(self, entry: Entry, failure: SearchResult, *, counts: bool) -> None:
    if self._wants(entry) and not entry.copies[self.stage.name]:  # Else another copy may answer.
      self._owner.failed(entry, failure, counts=counts)

  def _cut_off(self, sent: tuple[Link, list[Entry]]) -> None:
    """The limit of a batch: its worker hangs, so it is replaced."""
    link, batch = sent
    if self._batches.get(link) is batch:
      self.bury(link, SearchResult(Outcome.TIMEOUT, message='the worker did not answer in time'))

  def _start(self, gone: tuple[Link, int]) -> None:
    link, failed_starts = gone
    now = time.monotonic()
    try:
      new = link.again()
    except OSError:  # The host has no process or memory left; it may have soon.
      self._timers.at(now + pause_s(failed_starts), self._start, (link, failed_starts + 1))
      return
    self._starting[new] = failed_starts
    self._timers.at(now + START_S, self._give_up_start, new)

  def _give_up_start(self, link: Link) -> None:
    if link in self._starting:
      self.bury(link, SearchResult(Outcome.TIMEOUT, message='the worker did not start in time'))
