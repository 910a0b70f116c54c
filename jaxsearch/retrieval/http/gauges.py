"""What `jaxsearch serve` tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import prometheus_client
from prometheus_client import registry

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


class Gauges:
  """Counts, latencies and the state of one server."""

  def __init__(self) -> None:
    self._all = all_ = registry.CollectorRegistry()
    self._requests = prometheus_client.Counter(
      'jaxsearch_requests', 'HTTP requests answered.', ('dialect', 'outcome'), registry=all_
    )
    self._queries = prometheus_client.Counter(
      'jaxsearch_queries', 'Queries answered.', ('outcome',), registry=all_
    )
    self._seconds = prometheus_client.Histogram(
      'jaxsearch_request_seconds',
      'From the head of a request to its answer.',
      ('dialect',),
      registry=all_,
      buckets=_SECONDS,
    )
    self._now = prometheus_client.Gauge(
      'jaxsearch_in_flight', 'HTTP requests, and queries of them.', ('what',), registry=all_
    )
    self._pool = prometheus_client.Gauge(
      'jaxsearch_pool', 'Numbers of the pool, over ten seconds.', ('metric',), registry=all_
    )

  def note(self, dialect: str, outcome: str, queries: Iterable[str], seconds: float) -> None:
    """An HTTP request was answered, its queries with these outcomes."""
    self._requests.labels(dialect, outcome).inc()
    self._seconds.labels(dialect).observe(seconds)
    for query in queries:
      self._queries.labels(query).inc()

  def text(self, in_flight: Mapping[str, int], pool: Mapping[str, float]) -> bytes:
    """Everything as Prometheus reads it, with what is in flight and the pool's own numbers."""
    for what, number in in_flight.items():
      self._now.labels(what).set(number)
    self._pool.clear()
    for metric, value in pool.items():
      self._pool.labels(metric).set(value)
    return prometheus_client.generate_latest(self._all)
