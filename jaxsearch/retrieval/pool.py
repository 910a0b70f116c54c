"""The retrieval pool: searches run in other processes while the accelerator decodes.

One thread owns a pool: it submits requests and polls for answers. Every request is answered
exactly once, within its deadline, whatever its worker does: a retriever that is dead, slow,
wrong or floods its caller becomes a typed outcome, never an exception. Which answer a request
gets does not depend on the number of workers, on timing within the deadline or on other
requests; only the order in which answers arrive does.

What waits is bounded by its callers: a sampler has one search per row, a server refuses more than
its queue holds.
"""

from __future__ import annotations

import queue
import time

from jaxsearch import config
from jaxsearch.retrieval.journal import Journal
from jaxsearch.retrieval.pooling import cores, stages, statistics, worker
from jaxsearch.retrieval.pooling.entry import Entry
from jaxsearch.retrieval.pooling.link import Link, Ready, end
from jaxsearch.retrieval.pooling.scheduler import Scheduler
from jaxsearch.retrieval.pooling.station import START_S
from jaxsearch.types import SearchRequest, SearchResult, UserError


class Pool:
  """Worker processes around the backend that the configuration names.

  Attributes:
    pending: requests submitted and not yet returned by `poll`.
    identity: names all that answers depend on besides queries and `top_k`; '' if there is more.
  """

  def __init__(self, settings: config.Retrieval, journal: Journal | None = None):
    """Starts the workers and waits until each has opened its backend.

    Args:
      settings: backend, index, workers, deadline, cache and so on.
      journal: answers of the current step; what it holds is not searched again.

    Raises:
      UserError: if the backend, its models or the cache cannot be opened.
    """
    self.pending = 0
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    self._events: queue.SimpleQueue = queue.SimpleQueue()
    self._returned: list[Entry] = []
    self._before = (0, 0)
    passed = stages.stages(settings)
    shares = cores.share(settings.cores, passed)
    links: list[tuple[stages.Stage, list[Link]]] = [(stage, []) for stage in passed]
    try:
      for (stage, own), those in zip(links, shares, strict=True):
        own += (Link(worker.Job(stage.name, settings, share), self._events) for share in those)
      count = sum(len(own) for _, own in links)
      identities = _await_ready(count, self._events, settings.backend)
      self.identity = stages.identity(identities, settings)
      self._scheduler = Scheduler(settings, journal, links, identities, self._events, self._answers)
    except BaseException:
      end([link for _, own in links for link in own])
      raise

  def __enter__(self) -> Pool:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the workers; requests that are pending are not answered any more."""
    self._scheduler.close()

  def submit(self, request: SearchRequest) -> None:
    """Starts a search; the answer comes out of `poll`."""
    self.pending += 1
    self._events.put(Entry(request, time.monotonic()))

  def poll(self, timeout_s: float) -> list[tuple[SearchRequest, SearchResult]]:
    """Answers that have arrived, each once.

    Returns as soon as there is one; an empty list after `timeout_s` seconds, and at once if
    nothing is pending.

    Raises:
      UserError: if the index was changed under the pool.
      RuntimeError: if the pool itself failed, for example to write its journal.
    """
    entries: list[Entry] = []
    try:
      if self.pending:
        entries.append(self._next(timeout_s))
      while self.pending:
        entries.append(self._next(0.0))
    except queue.Empty:
      pass
    answers = [(entry.request, entry.result) for entry in entries]
    for entry in entries:
      entry.forget()
    self._returned.extend(entries)
    return answers

  def stats(self) -> dict[str, float]:
    """Numbers about the answers returned since the last call, which this one forgets."""
    entries, self._returned = self._returned, []
    now = (self._scheduler.restarts, self._scheduler.hedges)
    restarts, hedges = (count - before for count, before in zip(now, self._before, strict=True))
    self._before = now
    return statistics.statistics(entries) | {
      'search/worker_restarts': float(restarts),
      'search/hedges': float(hedges),
    }

  def ready(self) -> dict[str, int]:
    """Stage of a search -> its processes that are there and have opened what they need."""
    return self._scheduler.ready()

  def _next(self, timeout_s: float) -> Entry:
    entry = self._answers.get(timeout=timeout_s)
    if isinstance(entry, UserError):
      raise entry
    if isinstance(entry, Exception):
      raise RuntimeError('The retrieval pool failed.') from entry
    self.pending -= 1
    return entry


def _await_ready(count: int, events: queue.SimpleQueue, backend: str) -> dict[str, str]:
  """Waits for so many workers; returns what the answers of each stage depend on."""
  identities: dict[str, str] = {}
  until = time.monotonic() + START_S
  for _ in range(count):
    try:
      event = events.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
      raise UserError(
        f'The retrieval backend {backend!r} did not open within {START_S:.0f} s. '
        'Is the index on a slow disk, or a model too large for this CPU? Copy the index to a '
        'local disk, or serve the model at an endpoint (retrieval.url), and try again.'
      ) from None
    if not isinstance(event, Ready):
      raise UserError(event.reason)
    stage = event.link.job.stage
    if identities.setdefault(stage, event.identity) != event.identity:
      identities[stage] = ''  # Such as servers of which not all name their index.
  return identities
