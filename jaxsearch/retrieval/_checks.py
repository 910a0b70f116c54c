"""What a backend may not answer. A wrong answer becomes outcome `error`, never an exception.

The checks run inside the worker, so that a flood of documents never crosses to the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxsearch.retrieval import corpus
from jaxsearch.retrieval.backends._contract import Backend
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult

_MESSAGE_CHARACTERS = 500


def answers(backend: Backend, requests: Sequence[SearchRequest]) -> list[SearchResult]:
  """The backend's answer to each request, or what was wrong with it."""
  try:
    results = backend.search(requests)
    if len(results) != len(requests):
      raise ValueError(f'{len(results)} results for {len(requests)} requests')
  except Exception as error:  # Whatever a backend raises is its own failure.
    return [_failure(error)] * len(requests)
  return [_checked(request, result) for request, result in zip(requests, results)]


def _checked(request: SearchRequest, result: SearchResult) -> SearchResult:
  try:
    outcome = Outcome(result.outcome)
    if outcome.is_infra or outcome is Outcome.BAD_QUERY:
      return SearchResult(outcome, message=str(result.message)[:_MESSAGE_CHARACTERS])
    if len(result.documents) != len(request.queries):
      raise ValueError(f'documents for {len(result.documents)} of {len(request.queries)} queries')
    documents = tuple(_checked_list(found, request.top_k) for found in result.documents)
    if any(documents) is (outcome is Outcome.EMPTY):
      raise ValueError(f'outcome {outcome} with {sum(map(len, documents))} documents')
    return SearchResult(outcome, documents, message=str(result.message)[:_MESSAGE_CHARACTERS])
  except Exception as error:  # An answer of any other shape ends here too.
    return _failure(error)


def _checked_list(found: Sequence[Document], top_k: int) -> tuple[Document, ...]:
  if len(found) > top_k:
    raise ValueError(f'{len(found)} documents where at most {top_k} were asked for')
  return tuple(_checked_document(document) for document in found)


def _checked_document(document: Document) -> Document:
  if not math.isfinite(document.score):
    raise ValueError(f'score {document.score}')
  for part in (document.id, document.title, document.text):
    if len(part) > corpus.MAX_CHARACTERS:
      raise ValueError(f'a document of {len(part)} characters, more than {corpus.MAX_CHARACTERS}')
    part.encode()  # Half a surrogate pair would fail much later, in the tokenizer.
  return Document(document.id, document.title, document.text, float(document.score))


def _failure(error: Exception) -> SearchResult:
  message = f'{type(error).__name__}: {error}'[:_MESSAGE_CHARACTERS]
  return SearchResult(Outcome.ERROR, message=message)
