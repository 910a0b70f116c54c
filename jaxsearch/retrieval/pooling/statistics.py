"""The numbers of a pool: how its searches ended, who answered them and where their time went."""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Sequence

from jaxsearch.retrieval.pooling.entry import Entry
from jaxsearch.types import Outcome

_SHARES = (('p50', 0.5), ('p95', 0.95), ('p99', 0.99), ('max', 1.0))


def statistics(entries: Sequence[Entry]) -> dict[str, float]:
  """Of searches that have ended.

  Counts: all, by outcome, tries repeated, tries failed by kind, answered by the journal, by the
  cache, or together with the same search in flight. Seconds, as percentiles: from submission to
  answer (`search/latency_s/…`), and of those that were really searched the parts of it, waiting for
  workers (`queue_s`) and each stage (`encode_s`, `search_s`, `rerank_s`).
  """
  outcomes = collections.Counter(entry.result.outcome for entry in entries)
  sources = collections.Counter(entry.source for entry in entries)
  failed = collections.Counter(kind for entry in entries for kind in entry.failed)
  counts = {
    'search/count': len(entries),
    'search/retries': sum(entry.retries for entry in entries),
    'search/from_journal': sources['journal'],
    'search/from_cache': sources['cache'],
    'search/coalesced': sources['leader'],
    **{f'search/outcome/{outcome}': outcomes[outcome] for outcome in Outcome},
    **{f'search/failures/{kind}': count for kind, count in sorted(failed.items())},
  }
  seconds = {'latency': [entry.result.latency_s for entry in entries]}
  for entry in entries:
    for stage, value in entry.seconds.items():
      seconds.setdefault(stage, []).append(value)
  times = {
    f'search/{stage}_s/{name}': quantile(values, share)
    for stage, values in seconds.items()
    if values
    for name, share in _SHARES
  }
  return {name: float(value) for name, value in counts.items()} | times


def quantile(values: Collection[float], share: float) -> float:
  """The least value that so large a share of them does not exceed; there must be some."""
  return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
