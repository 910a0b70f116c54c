"""BM25 over words, by the bm25s library: the default backend.

Index and query go through one function from text to words, whose settings stand in the index.
Title and text are indexed together. Equal scores are ordered by place in the corpus, so an
answer never depends on the library's selection or on the other requests of a call. The index is
made by `retrieval/indexing/`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval import _lexical, index_folder, store
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError


def open(config: config.Retrieval) -> Bm25:
  """Opens the index `config.index`.

  Raises:
    UserError: if that has no BM25 part, or one that is damaged or was made by other versions, or
      needs a stemmer that is not installed.
  """
  return Bm25(config.index)


class Bm25:
  """An opened index; its files are mapped, not read.

  Attributes:
    identity: of the index that answers.
  """

  def __init__(self, folder: str):
    info, part = index_folder.read_part(folder, 'bm25')
    self.identity = f'bm25 {info["build"]}'
    self._words_of = _lexical.word_function(part['tokenizer']['stemmer'])
    _require_versions(folder, part)
    self._store = store.Store(folder)
    try:
      self._engine = _lexical.library().BM25.load(pathlib.Path(folder) / _lexical.FILES, mmap=True)
    except (OSError, ValueError) as error:
      raise UserError(f'The index {folder!r} is damaged: {error}. Make it anew.') from None
    if not len(self._store) == self._engine.scores['num_docs'] == info['documents']:
      raise UserError(
        f'The index {folder!r} is damaged: {len(self._store)} documents are stored and '
        f'{self._engine.scores["num_docs"]} indexed, of {info["documents"]}. Make it anew.'
      )

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """At most `top_k` documents per query, all with a score above 0."""
    return [self._answer(request) for request in requests]

  def _answer(self, request: SearchRequest) -> SearchResult:
    documents = tuple(self._best(query, request.top_k) for query in request.queries)
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)

  def _best(self, query: str, top_k: int) -> tuple[Document, ...]:
    ids = self._engine.get_tokens_ids(self._words_of(query))
    if not ids or top_k < 1:
      return ()
    scores = self._engine.get_scores(ids)
    # Keeping every document that ties with the last place leaves the choice to corpus order.
    last = np.partition(scores, -top_k)[-top_k] if top_k < len(scores) else 0.0
    found = np.flatnonzero(scores >= last if last > 0 else scores > 0)
    order = np.lexsort((found, -scores[found]))[:top_k]
    return tuple(self._store.document(int(i), float(scores[i])) for i in found[order])


def _require_versions(folder: str, part: Mapping[str, Any]) -> None:
  """Another stemmer makes other words of a query than of the documents: nothing would be found."""
  installed = _lexical.versions(part['tokenizer']['stemmer'])
  for name, made_with in part['versions'].items():
    if installed[name].split('.')[:2] != made_with.split('.')[:2]:
      raise UserError(
        f'The index {folder!r} was made with {name} {made_with}, and {installed[name]} is '
        f'installed. Make it anew, or install {name} {made_with}.'
      )
