"""A search on its way through the pool."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from jaxsearch.types import SearchRequest, SearchResult


@dataclasses.dataclass(eq=False)
class Entry:
  """A request and what has become of it.

  Attributes:
    request: what was asked.
    submitted: `time.monotonic()` of its submission.
    embeddings: of its queries, float32 [queries, dimensions], if the backend needs them.
    found: what the search found, while that is reranked.
    stage: that it waits for or is in; '' before the first.
    since: when it began to wait for that.
    copies: stage -> batches that hold it now; two if it was asked a second time.
    failures: tries that failed and count.
    retries: tries after the first.
    failed: kind of every try that failed, whether it counts or not.
    failure: what the last failed try said.
    key: by which its answer is kept; empty if it is not.
    leader: the entry in flight that asked the same before; its answer is this one's too.
    result: the final answer, None until then.
    source: who answered: '' (a search), 'journal', 'cache' or 'leader'.
    seconds: stage -> time spent in it; 'queue' for all waiting together.
  """

  request: SearchRequest
  submitted: float
  embeddings: np.ndarray | None = None
  found: SearchResult | None = None
  stage: str = ''
  since: float = 0.0
  copies: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  failures: int = 0
  retries: int = 0
  failed: list[str] = dataclasses.field(default_factory=list)
  failure: SearchResult | None = None
  key: bytes = b''
  leader: Entry | None = None
  result: SearchResult | None = None
  source: str = ''
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)

  def is_asked(self) -> bool:
    """Whether a worker is at it now."""
    return any((self.leader or self).copies.values())

  def spend(self, stage: str, seconds: float) -> None:
    """Adds to the time of a stage."""
    self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

  def forget(self) -> None:
    """Lets go of all but what statistics need: documents are large."""
    self.embeddings = self.found = self.failure = self.leader = None
    self.result = SearchResult(self.result.outcome, latency_s=self.result.latency_s)
