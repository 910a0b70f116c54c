"""What a worker may not answer. A wrong answer becomes outcome `error`, never an exception.

The checks run inside the worker, so that a flood of documents never crosses to the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxsearch.retrieval import corpus
from jaxsearch.retrieval.backends._contract import Backend, Encoder
from jaxsearch.retrieval.reranking import Reranker
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult

_MESSAGE_CHARACTERS = 500


class _Wrong(Exception):
  """What was answered cannot be; the message begins with a word of `retrieval/failures.py`."""


def answers(backend: Backend, requests: Sequence[SearchRequest]) -> list[SearchResult]:
  """The backend's answer to each request, or what was wrong with it."""
  try:
    results = backend.search(requests)
    if len(results) != len(requests):
      raise _Wrong(f'wrong_count: {len(results)} results for {len(requests)} requests')
  except Exception as error:  # Whatever a backend raises is its own failure.
    return [_failure(error)] * len(requests)
  return [_checked(request, result) for request, result in zip(requests, results)]


def vectors(encoder: Encoder, requests: Sequence[SearchRequest]) -> list[np.ndarray | SearchResult]:
  """The embeddings of each request's queries, float32 [queries, dimensions], or what was wrong."""
  texts = [query for request in requests for query in request.queries]
  try:
    found = np.asarray(encoder.encode(texts), np.float32)
    if found.ndim != 2 or len(found) != len(texts):
      raise _Wrong(f'wrong_shape: vectors of shape {found.shape} for {len(texts)} queries')
  except Exception as error:
    return [_failure(error)] * len(requests)
  ends = np.cumsum([len(request.queries) for request in requests])[:-1]
  return [
    own if np.isfinite(own).all() else _failure(_Wrong('bad_vector: it is not finite'))
    for own in np.split(found, ends)
  ]


def reranked(
  reranker: Reranker, asked: Sequence[tuple[SearchRequest, SearchResult]]
) -> list[SearchResult]:
  """The best of what each request's search found, or what was wrong with the scores."""
  return [_reranked(reranker, request, found) for request, found in asked]


def _reranked(reranker: Reranker, request: SearchRequest, found: SearchResult) -> SearchResult:
  try:
    return _checked(request, reranker.rerank(request, found))
  except Exception as error:
    return _failure(error)


def _checked(request: SearchRequest, result: SearchResult) -> SearchResult:
  try:
    outcome = Outcome(result.outcome)
    if outcome.is_infra or outcome is Outcome.BAD_QUERY:
      return SearchResult(outcome, message=str(result.message)[:_MESSAGE_CHARACTERS])
    if len(result.documents) != len(request.queries):
      count, wanted = len(result.documents), len(request.queries)
      raise _Wrong(f'wrong_count: documents for {count} of {wanted} queries')
    documents = tuple(_checked_list(found, request.top_k) for found in result.documents)
    if any(documents) is (outcome is Outcome.EMPTY):
      raise _Wrong(f'wrong_outcome: {outcome} with {sum(map(len, documents))} documents')
    return SearchResult(outcome, documents, message=str(result.message)[:_MESSAGE_CHARACTERS])
  except Exception as error:  # An answer of any other shape ends here too.
    return _failure(error)


def _checked_list(found: Sequence[Document], top_k: int) -> tuple[Document, ...]:
  if len(found) > top_k:
    raise _Wrong(f'flood: {len(found)} documents where at most {top_k} were asked for')
  return tuple(_checked_document(document) for document in found)


def _checked_document(document: Document) -> Document:
  if not math.isfinite(document.score):
    raise _Wrong(f'bad_score: {document.score}')
  for part in (document.id, document.title, document.text):
    if len(part) > corpus.MAX_CHARACTERS:
      raise _Wrong(f'too_large: a document of {len(part)} characters')
    part.encode()  # Half a surrogate pair would fail much later, in the tokenizer.
  return Document(document.id, document.title, document.text, float(document.score))


def _failure(error: Exception) -> SearchResult:
  is_ours = isinstance(error, _Wrong)
  message = str(error) if is_ours else f'raised: {type(error).__name__}: {error}'
  return SearchResult(Outcome.ERROR, message=message[:_MESSAGE_CHARACTERS])
