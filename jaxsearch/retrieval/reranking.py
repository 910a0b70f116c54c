"""Reranking: a cross-encoder reads query and document together and has the last word.

Scores become the cross-encoder's. Documents of equal score keep the order of the search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval import store
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError


class Scorer(Protocol):
  """What is asked of a cross-encoder."""

  def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
    """How well each text answers the query; float32 [texts], larger is better."""
    ...


class Reranker:
  """A cross-encoder over the documents that were found.

  Attributes:
    identity: names what scores depend on besides query and text.
  """

  def __init__(self, scorer: Scorer, identity: str):
    self.identity = identity
    self._scorer = scorer

  def rerank(self, request: SearchRequest, found: SearchResult) -> SearchResult:
    """At most `request.top_k` documents per query, by the cross-encoder's scores."""
    documents = tuple(
      self._best(query, documents, request.top_k)
      for query, documents in zip(request.queries, found.documents, strict=True)
    )
    outcome = found.outcome if any(documents) else Outcome.EMPTY
    return dataclasses.replace(found, outcome=outcome, documents=documents)

  def _best(self, query: str, documents: tuple[Document, ...], top_k: int) -> tuple[Document, ...]:
    if not documents:
      return ()
    scores = self._scorer.scores(query, [store.whole(document) for document in documents])
    order = np.argsort(-scores, kind='stable')[:top_k]
    return tuple(dataclasses.replace(documents[i], score=float(scores[i])) for i in order)


def open(config: config.Retrieval) -> Reranker:
  """Opens the cross-encoder of `retrieval.reranker`.

  Raises:
    UserError: if the folder holds none that is known.
  """
  # JAX enters the processes that rerank and no other.
  from jaxsearch.encoding import cross_encoder

  try:
    scorer = cross_encoder.open(config.reranker, config.encoder_dtype)
  except UserError as error:
    raise UserError(f'retrieval.reranker: {error}') from None
  return Reranker(scorer, f'{scorer.sha256} {config.encoder_dtype}')
