"""The retrieval pool: searches run in other processes while the accelerator decodes.

One thread owns a pool: it submits requests and polls for answers. Every request is answered
exactly once, within its deadline, whatever its worker does: a retriever that is dead, slow,
wrong or floods its caller becomes a typed outcome, never an exception. Which answer a request
gets does not depend on the number of workers, on timing within the deadline or on other
requests; only the order in which answers arrive does.
"""

from __future__ import annotations

import collections
import queue
import time

from jaxsearch import config
from jaxsearch.retrieval._link import Link, Ready, end
from jaxsearch.retrieval._scheduler import Entry, Scheduler
from jaxsearch.retrieval.journal import Journal
from jaxsearch.types import Outcome, SearchRequest, SearchResult, UserError

_START_S = 120.0  # Opening a large index on a cold disk takes a while.


class Pool:
  """Worker processes around the backend that the configuration names.

  Attributes:
    pending: requests submitted and not yet returned by `poll`.
  """

  def __init__(self, settings: config.Retrieval, journal: Journal | None = None):
    """Starts the workers and waits until each has opened its backend.

    Args:
      settings: backend, index, workers, deadline and retries.
      journal: answers of the current step; what it holds is not searched again.

    Raises:
      UserError: if the backend cannot be opened.
    """
    self.pending = 0
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    self._events: queue.SimpleQueue = queue.SimpleQueue()
    self._returned: list[Entry] = []
    self._restarts_before = 0
    links = [Link(settings, self._events) for _ in range(settings.workers)]
    try:
      _await_ready(links, self._events, settings.backend)
    except BaseException:
      end(links)
      raise
    self._scheduler = Scheduler(settings, journal, links, self._events, self._answers)

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
    self._returned.extend(entries)
    return [(entry.request, entry.result) for entry in entries]

  def stats(self) -> dict[str, float]:
    """Numbers about the answers returned since the last call, which this one forgets."""
    entries, self._returned = self._returned, []
    restarts = self._scheduler.restarts
    outcomes = collections.Counter(entry.result.outcome for entry in entries)
    metrics = {
      'search/count': float(len(entries)),
      'search/retries': float(sum(entry.retries for entry in entries)),
      'search/from_journal': float(sum(entry.journalled for entry in entries)),
      'search/worker_restarts': float(restarts - self._restarts_before),
      **{f'search/outcome/{outcome}': float(outcomes[outcome]) for outcome in Outcome},
    }
    self._restarts_before = restarts
    latencies_s = sorted(entry.result.latency_s for entry in entries)
    if latencies_s:
      for name, share in (('p50', 0.5), ('p95', 0.95), ('max', 1.0)):
        metrics[f'search/latency_s/{name}'] = latencies_s[round(share * (len(latencies_s) - 1))]
    return metrics

  def _next(self, timeout_s: float) -> Entry:
    entry = self._answers.get(timeout=timeout_s)
    if isinstance(entry, Exception):
      raise RuntimeError('The retrieval pool failed.') from entry
    self.pending -= 1
    return entry


def _await_ready(links: list[Link], events: queue.SimpleQueue, backend: str) -> None:
  until = time.monotonic() + _START_S
  for _ in links:
    try:
      event = events.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
      raise UserError(
        f'The retrieval backend {backend!r} did not open within {_START_S:.0f} s. '
        'Is the index on a slow disk, or a simulator too large for this CPU? Copy the index to a '
        'local disk, or serve the simulator at an endpoint (retrieval.url), and try again.'
      ) from None
    if not isinstance(event, Ready):
      raise UserError(event.reason)
