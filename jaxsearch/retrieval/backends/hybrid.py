"""BM25 and dense search together, by reciprocal rank fusion (Cormack et al., SIGIR 2009).

Each finds `retrieval.candidates` documents per query; a document's score is the sum over both lists
of 1 / (60 + rank). Ranks need no common scale, so nothing is tuned. Words find names that vectors
blur, vectors find what is worded differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxsearch import config
from jaxsearch.retrieval.backends import bm25, dense
from jaxsearch.retrieval.backends._contract import Backend, Encoder
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult

_RANK = 60  # The paper's constant: how much the first places outweigh the next.


class Hybrid:
  """Two backends over one index folder.

  Attributes:
    identity: of both, and of how many documents each gives.
  """

  def __init__(self, parts: Sequence[Backend], candidates: int):
    self.identity = ' '.join([*(part.identity for part in parts), str(candidates)])
    self._parts = parts
    self._candidates = candidates

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """At most `top_k` documents per query; a part that fails is the failure of the request."""
    wide = [dataclasses.replace(r, top_k=max(r.top_k, self._candidates)) for r in requests]
    found = zip(*(part.search(wide) for part in self._parts), strict=True)
    return [self._fuse(request, own) for request, own in zip(requests, found, strict=True)]

  def _fuse(self, request: SearchRequest, results: Sequence[SearchResult]) -> SearchResult:
    for result in results:
      if result.outcome not in (Outcome.OK, Outcome.EMPTY):
        return result
    lists = zip(*(result.documents for result in results), strict=True)
    documents = tuple(fuse(own)[: request.top_k] for own in lists)
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)


def fuse(lists: Sequence[Sequence[Document]]) -> tuple[Document, ...]:
  """One list of all documents, by the sum of 1 / (60 + rank); ties keep the order of the lists."""
  scores: dict[str, float] = {}
  documents: dict[str, Document] = {}
  for found in lists:
    for rank, document in enumerate(found, start=1):
      documents.setdefault(document.id, document)
      scores[document.id] = scores.get(document.id, 0.0) + 1.0 / (_RANK + rank)
  order = sorted(scores, key=scores.__getitem__, reverse=True)
  return tuple(dataclasses.replace(documents[id], score=scores[id]) for id in order)


def open(config: config.Retrieval) -> Hybrid:
  """Opens both parts of the index; raises UserError if one is missing."""
  return Hybrid((bm25.open(config), dense.open(config)), config.candidates)


def open_encoder(config: config.Retrieval) -> Encoder:
  """The encoder of the dense part."""
  return dense.open_encoder(config)
