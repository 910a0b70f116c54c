"""BM25 that answers some searches with documents about something else, ever more of them.

ZeroSearch's curriculum (arXiv 2505.04588) without a language model to simulate the retriever:
useful answers are the index's own, noisy ones are random documents of it that the query does not
find. `retrieval.noise_start` and `noise_end` bound the share of noisy answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jaxsearch import config
from jaxsearch.retrieval import _noise, store
from jaxsearch.retrieval.backends import bm25
from jaxsearch.types import Outcome, SearchRequest, SearchResult


class Noisy:
  """A BM25 index that misleads on purpose."""

  identity = ''

  def __init__(self, settings: config.Retrieval):
    self._settings = settings
    self._backend = bm25.Bm25(settings.index)
    self._store = store.Store(settings.index)

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """At most `top_k` documents per query, of one kind: all useful or all noise."""
    found = self._backend.search(requests)
    return [
      self._noise(request, result) if _noise.is_noisy(self._settings, request) else result
      for request, result in zip(requests, found, strict=True)
    ]

  def _noise(self, request: SearchRequest, found: SearchResult) -> SearchResult:
    draw = random.Random(request.key)
    documents = []
    for useful in found.documents:
      known = {document.id for document in useful}
      count = min(request.top_k + len(known), len(self._store))
      picks = map(self._store.document, draw.sample(range(len(self._store)), count))
      documents.append(tuple(d for d in picks if d.id not in known)[: request.top_k])
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, tuple(documents))


def open(config: config.Retrieval) -> Noisy:
  """Opens a BM25 index; raises UserError as `bm25.open` does."""
  return Noisy(config)
