"""Who searches what and when: the one thread that decides for the pool.

A request is answered by the journal, by the cache or together with the same request in flight; else
it passes the stages (`stages.py`), each with its workers (`station.py`). A stage that fails is
tried again after a jittered pause. Whatever happens, its deadline ends it.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from typing import Any

from jaxsearch import config
from jaxsearch.retrieval.cache import Cache
from jaxsearch.retrieval.failures import kind
from jaxsearch.retrieval.journal import Journal
from jaxsearch.retrieval.pooling import stages
from jaxsearch.retrieval.pooling.entry import Entry
from jaxsearch.retrieval.pooling.link import Answered, Died, Ready, end
from jaxsearch.retrieval.pooling.station import Station
from jaxsearch.retrieval.pooling.timers import Timers, pause_s
from jaxsearch.types import Outcome, SearchResult, UserError


class Scheduler:
  """Runs the state machine on a thread of its own.

  It reads `events` (entries, reports of links, None to stop) and puts finished entries into
  `answers`; an exception that it could not foresee is put there too.
  """

  def __init__(
    self,
    settings: config.Retrieval,
    journal: Journal | None,
    links: list[tuple[stages.Stage, list]],
    identities: dict[str, str],
    events: queue.SimpleQueue,
    answers: queue.SimpleQueue,
  ):
    """Starts the thread; every link is ready. Raises UserError if the cache cannot be opened."""
    self._settings = settings
    self._journal = journal
    self._events = events
    self._answers = answers
    self._timers = Timers()
    self._stations = {
      stage.name: Station(stage, own, settings, self._timers, self) for stage, own in links
    }
    self._order = list(self._stations)
    self._identities = identities
    self._cache = _cache(settings, identities)
    self._leaders: dict[bytes, Entry] = {}  # In flight, by what they ask.
    self._followers: dict[Entry, list[Entry]] = {}
    self._thread = threading.Thread(target=self._run, name='retrieval', daemon=True)
    self._thread.start()

  @property
  def restarts(self) -> int:
    """Workers replaced so far."""
    return sum(station.restarts for station in self._stations.values())

  @property
  def hedges(self) -> int:
    """Searches asked of a second worker so far."""
    return sum(station.hedges for station in self._stations.values())

  def ready(self) -> dict[str, int]:
    """Stage -> workers that have opened what they need."""
    return {name: station.ready for name, station in self._stations.items()}

  def close(self) -> None:
    """Stops the thread and ends the workers."""
    self._events.put(None)
    self._thread.join()
    end([link for station in self._stations.values() for link in station.links])
    if self._cache:
      self._cache.close()

  def passed(self, entry: Entry, answer: Any) -> None:
    """A stage's answer: on to the next stage, or the end."""
    station = self._stations[entry.stage]
    stages.take(station.stage, entry, answer)
    place = self._order.index(entry.stage) + 1
    is_over = entry.found is not None and not any(entry.found.documents)
    if place < len(self._order) and not is_over:
      self._stations[self._order[place]].push(entry)
    else:
      self._finish(entry, entry.found)

  def failed(self, entry: Entry, failure: SearchResult, *, counts: bool) -> None:
    """A stage's failure: it is tried again, or stands."""
    entry.failure = failure
    entry.failed.append(kind(failure.message, str(failure.outcome)))
    entry.failures += counts
    draw = random.Random(entry.request.key + entry.retries)
    again = time.monotonic() + draw.uniform(0, pause_s(entry.failures))
    if entry.failures > self._settings.retries or again >= self.deadline(entry):
      self._finish(entry, failure)
    else:
      entry.retries += 1
      self._timers.at(again, self._stations[entry.stage].push, entry)

  def deadline(self, entry: Entry) -> float:
    """When its answer is due, on the clock of `time.monotonic()`."""
    return entry.submitted + self._settings.deadline_s

  def _run(self) -> None:
    try:
      while self._turn():
        pass
    except Exception as error:  # Raised again where the pool is polled.
      self._answers.put(error)

  def _turn(self) -> bool:
    """Waits for something to happen, deals with all that has; False: stop."""
    try:
      event = self._events.get(timeout=self._timers.wait_s())
      while True:
        if event is None:
          return False
        self._handle(event)
        event = self._events.get_nowait()
    except queue.Empty:
      pass
    self._timers.run_due()
    for station in self._stations.values():
      station.dispatch()
    return True

  def _handle(self, event: Entry | Ready | Answered | Died) -> None:
    match event:
      case Entry():
        self._admit(event)
      case Ready(link, identity):
        self._require_same(link.job.stage, identity)
        self._stations[link.job.stage].started(link)
      case Answered(link):
        self._stations[link.job.stage].answered(link, event.answers)
      case Died(link, reason):
        failure = SearchResult(Outcome.ERROR, message=f'worker: {reason}')
        self._stations[link.job.stage].bury(link, failure)

  def _admit(self, entry: Entry) -> None:
    request = entry.request
    known = self._journal.get(request) if self._journal else None
    if known is not None:
      entry.source, entry.result = 'journal', known
      self._answers.put(entry)
    elif not request.queries or not all(query.strip() for query in request.queries):
      self._finish(entry, SearchResult(Outcome.BAD_QUERY, message='the query is empty'))
    else:
      self._timers.at(self.deadline(entry), self._expire, entry)
      self._ask(entry)

  def _ask(self, entry: Entry) -> None:
    """Answers from what is known or being asked; else the entry begins with the first stage."""
    key = self._cache.key(entry.request) if self._cache else b''
    known = self._cache.get(key) if self._cache else None
    if known is not None:
      entry.source = 'cache'
      self._finish(entry, known)
    elif key in self._leaders:
      entry.leader = self._leaders[key]
      self._followers.setdefault(entry.leader, []).append(entry)
    else:
      if key:
        entry.key = key
        self._leaders[key] = entry
      self._stations[self._order[0]].push(entry)

  def _finish(self, entry: Entry, result: SearchResult) -> None:
    if entry.result is not None:
      return
    latency_s = time.monotonic() - entry.submitted
    entry.result = SearchResult(result.outcome, result.documents, latency_s, result.message)
    if self._journal:
      self._journal.put(entry.request, entry.result)
    self._answers.put(entry)
    if entry.key:
      self._lead(entry, result)

  def _lead(self, entry: Entry, result: SearchResult) -> None:
    """What was found is kept, and goes to those who asked the same; after a failure they ask."""
    if self._leaders.get(entry.key) is entry:
      del self._leaders[entry.key]
    if self._cache:
      self._cache.put(entry.key, result)
    for follower in self._followers.pop(entry, ()):
      follower.leader = None
      if follower.result is None:
        if result.outcome.is_infra:
          # One more try each: a query that kills its worker must not do so for all who asked it.
          follower.failures = min(entry.failures, self._settings.retries)
          follower.failure = result
          self._ask(follower)
        else:
          follower.source = 'leader'
          self._finish(follower, result)

  def _expire(self, entry: Entry) -> None:
    """The deadline of a request: whatever is known is its answer."""
    if entry.is_asked():
      outcome, message = Outcome.TIMEOUT, f'no answer within {self._settings.deadline_s} s'
    else:
      outcome, message = Outcome.OVERLOADED, f'no free worker in {self._settings.deadline_s} s'
    self._finish(entry, entry.failure or SearchResult(outcome, message=message))

  def _require_same(self, stage: str, identity: str) -> None:
    """A process that was replaced sees what the others see, or answers of two indexes would mix."""
    before = self._identities[stage]
    if before and identity and identity != before:
      raise UserError(
        f'What retrieval answers from has changed while it ran: {stage} was {before!r} and is '
        f'{identity!r}. Give a new index or model another folder, or start again.'
      )
    if not identity:  # A server that names its index no more, for example.
      self._cache = None


def _cache(settings: config.Retrieval, identities: dict[str, str]) -> Cache | None:
  """Where answers are kept; None if they are not, or depend on more than what is asked."""
  identity = stages.identity(identities, settings)
  if not identity or not (settings.cache_queries or settings.cache):
    return None
  return Cache(identity, settings.cache_queries, settings.cache)
