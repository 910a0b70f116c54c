"""No retriever: every search finds nothing. The control that shows what searching is worth."""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch import config
from jaxsearch.types import Outcome, SearchRequest, SearchResult


class Nothing:
  """Answers `empty` to everything."""

  identity = ''

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """One empty list of documents per query."""
    return [SearchResult(Outcome.EMPTY, ((),) * len(request.queries)) for request in requests]


def open(config: config.Retrieval) -> Nothing:
  """Needs no index."""
  del config
  return Nothing()
