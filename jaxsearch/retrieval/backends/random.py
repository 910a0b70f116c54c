"""Random documents of the index, drawn from the request's key: a control.

The texts look like real answers, so what a policy gains with them it did not gain by reading.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jaxsearch import config
from jaxsearch.retrieval import index_folder, store
from jaxsearch.types import Outcome, SearchRequest, SearchResult


class Random:
  """Draws without replacement; the query is not read."""

  identity = ''

  def __init__(self, folder: str):
    index_folder.read_info(folder)
    self._store = store.Store(folder)

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """`top_k` documents per query, all with score 0."""
    return [self._answer(request) for request in requests]

  def _answer(self, request: SearchRequest) -> SearchResult:
    draw = random.Random(request.key)
    count = min(request.top_k, len(self._store))
    picks = [draw.sample(range(len(self._store)), count) for _ in request.queries]
    documents = tuple(tuple(map(self._store.document, pick)) for pick in picks)
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)


def open(config: config.Retrieval) -> Random:
  """Opens any index `config.index`; raises UserError if it is none."""
  return Random(config.index)
