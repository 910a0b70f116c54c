"""Who searches what and when: the one thread that decides for the pool.

A request waits, is sent to a worker in a micro-batch (whatever waits, shared out evenly over
the idle workers), and is answered, or fails and is tried again after a jittered pause. A failed
request is tried alone, and a failure in company does not count, so that a request that kills
its worker harms only itself and its outcome does not depend on its company. While retries are
left, a batch may use half of the time to its nearest deadline, then its worker is ended and
replaced; the last try may use all of it.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxsearch import config
from jaxsearch.retrieval._link import Answered, Died, Link, Ready, end
from jaxsearch.retrieval.journal import Journal
from jaxsearch.types import Outcome, SearchRequest, SearchResult

_PAUSE_S = 0.05  # Longest pause before the first retry; doubled for each further one.
_LONGEST_PAUSE_S = 5.0


@dataclasses.dataclass(eq=False)
class Entry:
  """A request on its way.

  Attributes:
    request: what was asked.
    submitted: `time.monotonic()` of its submission.
    failures: tries that failed and count.
    retries: tries after the first.
    failure: what the last failed try said.
    result: the final answer, None until then.
    journalled: True if the answer came from the journal.
  """

  request: SearchRequest
  submitted: float
  failures: int = 0
  retries: int = 0
  failure: SearchResult | None = None
  result: SearchResult | None = None
  journalled: bool = False


class Scheduler:
  """Runs the state machine on a thread of its own.

  It reads `events` (entries, reports of links, None to stop) and puts finished entries into
  `answers`; an exception that it could not foresee is put there too.
  """

  def __init__(
    self,
    settings: config.Retrieval,
    journal: Journal | None,
    links: list[Link],
    events: queue.SimpleQueue,
    answers: queue.SimpleQueue,
  ):
    self.restarts = 0
    self._settings = settings
    self._journal = journal
    self._events = events
    self._answers = answers
    self._idle = list(links)
    self._starting: dict[Link, int] = {}  # Failed starts in a row before this one.
    self._batches: dict[Link, list[Entry]] = {}
    self._waiting: collections.deque[Entry] = collections.deque()
    self._timers: list[tuple[float, int, Callable[..., None], Any]] = []
    self._numbers = itertools.count()
    self._thread = threading.Thread(target=self._run, name='retrieval', daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Stops the thread and ends the workers."""
    self._events.put(None)
    self._thread.join()
    end([*self._idle, *self._starting, *self._batches])

  def _run(self) -> None:
    try:
      while self._turn():
        pass
    except Exception as error:  # Raised again where the pool is polled.
      self._answers.put(error)

  def _turn(self) -> bool:
    """Waits for something to happen, deals with all that has; False: stop."""
    wait_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
    try:
      event = self._events.get(timeout=wait_s)
      while True:
        if event is None:
          return False
        self._handle(event)
        event = self._events.get_nowait()
    except queue.Empty:
      pass
    while self._timers and self._timers[0][0] <= time.monotonic():
      _, _, action, argument = heapq.heappop(self._timers)
      action(argument)
    self._dispatch()
    return True

  def _handle(self, event: Entry | Ready | Answered | Died) -> None:
    match event:
      case Entry():
        self._admit(event)
      case Ready(link) if link in self._starting:
        del self._starting[link]
        self._idle.append(link)
      case Answered(link, results) if link in self._batches:
        batch = self._batches.pop(link)
        self._idle.append(link)
        self._settle(batch, results)
      case Died(link, reason):
        self._bury(link, SearchResult(Outcome.ERROR, message=reason))
      case _:
        pass  # The last words of a worker that was replaced.

  def _admit(self, entry: Entry) -> None:
    request = entry.request
    known = self._journal.get(request) if self._journal else None
    if known is not None:
      entry.journalled, entry.result = True, known
      self._answers.put(entry)
    elif not request.queries or not all(query.strip() for query in request.queries):
      self._finish(entry, SearchResult(Outcome.BAD_QUERY, message='the query is empty'))
    else:
      self._waiting.append(entry)
      self._at(self._deadline(entry), self._expire, entry)

  def _dispatch(self) -> None:
    while self._idle and self._waiting:
      share = -(-len(self._waiting) // len(self._idle))
      batch = self._take(min(share, self._settings.batch))
      if not batch:
        continue
      now = time.monotonic()
      left_s = min(map(self._deadline, batch)) - now
      has_retries = any(entry.failures < self._settings.retries for entry in batch)
      link = self._idle.pop()
      self._batches[link] = batch
      self._at(now + (left_s / 2 if has_retries else left_s), self._cut_off, (link, batch))
      link.send([entry.request for entry in batch])

  def _take(self, most: int) -> list[Entry]:
    """The next entries that may share a batch; those that were answered meanwhile are dropped."""
    batch: list[Entry] = []
    while self._waiting and len(batch) < most:
      entry = self._waiting[0]
      if entry.failure is not None and batch and entry.result is None:
        break
      self._waiting.popleft()
      if entry.result is None:
        batch.append(entry)
        if entry.failure is not None:
          break
    return batch

  def _settle(self, batch: list[Entry], results: list[SearchResult]) -> None:
    for entry, result in zip(batch, results):
      if result.outcome.is_infra:
        self._fail(entry, result, counts=len(batch) == 1)
      else:
        self._finish(entry, result)

  def _fail(self, entry: Entry, failure: SearchResult, *, counts: bool) -> None:
    if entry.result is not None:
      return
    entry.failure = failure
    entry.failures += counts
    longest = min(_PAUSE_S * 2**entry.failures, _LONGEST_PAUSE_S)
    again = time.monotonic() + random.Random(entry.request.key + entry.retries).uniform(0, longest)
    if entry.failures > self._settings.retries or again >= self._deadline(entry):
      self._finish(entry, failure)
    else:
      entry.retries += 1
      self._at(again, self._waiting.append, entry)

  def _finish(self, entry: Entry, result: SearchResult) -> None:
    if entry.result is not None:
      return
    latency_s = time.monotonic() - entry.submitted
    entry.result = dataclasses.replace(result, latency_s=latency_s)
    if self._journal:
      self._journal.put(entry.request, entry.result)
    self._answers.put(entry)

  def _expire(self, entry: Entry) -> None:
    """The deadline of a request: whatever is known is its answer."""
    if any(entry in batch for batch in self._batches.values()):
      outcome, message = Outcome.TIMEOUT, f'no answer within {self._settings.deadline_s} s'
    else:
      outcome, message = Outcome.OVERLOADED, f'no free worker in {self._settings.deadline_s} s'
    self._finish(entry, entry.failure or SearchResult(outcome, message=message))

  def _cut_off(self, sent: tuple[Link, list[Entry]]) -> None:
    """The limit of a batch: its worker hangs, so it is replaced."""
    link, batch = sent
    if self._batches.get(link) is batch:
      self._bury(link, SearchResult(Outcome.TIMEOUT, message='the worker did not answer in time'))

  def _bury(self, link: Link, failure: SearchResult) -> None:
    """Replaces a worker, at once if it had ever worked, and retries its batch."""
    batch = self._batches.pop(link, None)
    failed_starts = self._starting.pop(link, None)
    if batch is None and failed_starts is None:
      if link not in self._idle:
        return  # Replaced already.
      self._idle.remove(link)
    link.kill()
    self.restarts += 1
    starts = 0 if failed_starts is None else failed_starts + 1
    pause_s = min(_PAUSE_S * 2**starts, _LONGEST_PAUSE_S) if starts else 0.0
    self._at(time.monotonic() + pause_s, self._start, starts)
    for entry in batch or ():
      self._fail(entry, failure, counts=len(batch) == 1)

  def _start(self, failed_starts: int) -> None:
    self._starting[Link(self._settings, self._events)] = failed_starts

  def _deadline(self, entry: Entry) -> float:
    return entry.submitted + self._settings.deadline_s

  def _at(self, when: float, action: Callable[..., None], argument: Any) -> None:
    heapq.heappush(self._timers, (when, next(self._numbers), action, argument))
