"""BM25 over words, by the bm25s library: the default backend.

Index and query go through one function from text to words, whose settings stand in the index.
Title and text are indexed together. Equal scores are ordered by place in the corpus, so an
answer never depends on the library's selection or on the other requests of a call.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import pathlib
import re
import sys
import types as pytypes
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval import corpus as corpora
from jaxsearch.retrieval import index_folder
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError

_FILES = 'bm25'
_WORD = re.compile(r'[^\W_]+')
# Lucene's English stop words: a query made of them alone finds nothing instead of anything.
_STOP_WORDS = frozenset(
  _WORD.findall(
    'a an and are as at be but by for if in into is it no not of on or such that the their then '
    'there these they this to was will with'
  )
)


def build(corpus: str, out: str, *, stemmer: str = 'english') -> dict[str, Any]:
  """Indexes the corpus file `corpus` into the folder `out`; returns what `index.json` says.

  Args:
    corpus: JSON lines of documents.
    out: folder to write; an index that is there already is replaced.
    stemmer: Snowball language, or '' for none.

  Raises:
    UserError: if the corpus is broken, `out` cannot be written or there is no such stemmer.
  """
  words_of = _word_function({'stemmer': stemmer})
  vocabulary: dict[str, int] = {}
  ids: list[list[int]] = []

  def note_words(document: Document) -> Document:
    words = words_of(f'{document.title}\n{document.text}')
    ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
    return document

  with index_folder.publish(out) as folder:
    count = corpora.write_store(map(note_words, corpora.read(corpus)), folder)
    if not vocabulary:
      raise UserError(f'The corpus {corpus!r} holds no words to index. Is it the right file?')
    engine = _library().BM25()
    engine.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    engine.save(folder / _FILES, show_progress=False)
    info = _describe(pathlib.Path(corpus), count, engine, stemmer)
    index_folder.write_info(folder, info)
  return info


def open(config: config.Retrieval) -> Bm25:
  """Opens the index `config.index`.

  Raises:
    UserError: if that is not a BM25 index, or needs a stemmer that is not installed.
  """
  return Bm25(config.index)


class Bm25:
  """An opened index; its files are mapped, not read."""

  def __init__(self, folder: str):
    info = index_folder.read_info(folder)
    if info.get('kind') != 'bm25':
      raise UserError(
        f'{folder!r} is an index of kind {info.get("kind")!r}, not bm25. '
        'Make one with `jaxsearch index --corpus=FILE --out=FOLDER`.'
      )
    self._words_of = _word_function(info['tokenizer'])
    self._store = corpora.Store(folder)
    self._engine = _library().BM25.load(pathlib.Path(folder) / _FILES, mmap=True)

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
    found = np.flatnonzero(scores > 0)
    if len(found) > top_k:
      # Keeping every document that ties with the last place leaves the choice to corpus order.
      last = np.partition(scores[found], -top_k)[-top_k]
      found = found[scores[found] >= last]
    order = np.lexsort((found, -scores[found]))[:top_k]
    return tuple(self._store.document(int(i), float(scores[i])) for i in found[order])


def _word_function(settings: Mapping[str, Any]) -> Callable[[str], list[str]]:
  """From text to words: NFKC, lower case, letters and digits, no stop words, stemmed."""
  stem = _stem_function(settings['stemmer'])
  stop_words = _STOP_WORDS if settings['stemmer'] == 'english' else frozenset()

  def words_of(text: str) -> list[str]:
    words = _WORD.findall(unicodedata.normalize('NFKC', text).lower())
    return stem([word for word in words if word not in stop_words])

  return words_of


def _stem_function(language: str) -> Callable[[list[str]], list[str]]:
  if not language:
    return list
  try:
    stemmers = importlib.import_module('Stemmer')
  except ImportError:
    raise UserError(
      f'The stemmer {language!r} needs PyStemmer. Install it with `pip install PyStemmer`.'
    ) from None
  if language not in stemmers.algorithms():
    raise UserError(
      f'No stemmer is called {language!r}. Choices: {", ".join(stemmers.algorithms())}.'
    )
  return stemmers.Stemmer(language).stemWords


def _describe(
  corpus: pathlib.Path, count: int, engine: Any, stemmer: str
) -> dict[str, str | int | dict[str, Any]]:
  with corpus.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  info = {
    'kind': 'bm25',
    'documents': count,
    'corpus_sha256': digest,
    'tokenizer': {'stemmer': stemmer, 'unicode': unicodedata.unidata_version},
    'parameters': {'method': engine.method, 'k1': engine.k1, 'b': engine.b},
    'versions': {name: importlib.metadata.version(name) for name in ('bm25s', 'numpy')},
  }
  build = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()[:16]
  return {**info, 'build': build}


def _library() -> pytypes.ModuleType:
  """bm25s, imported without its optional accelerators.

  Where JAX is installed, importing bm25s runs a JAX operation, which starts a JAX backend and
  may take the accelerator away from the trainer. SciPy and numba would only make workers start
  more slowly: the index is built and searched with numpy.
  """
  if 'bm25s' in sys.modules:
    return sys.modules['bm25s']
  hidden = ('jax', 'scipy', 'numba')
  before = {name: sys.modules[name] for name in hidden if name in sys.modules}
  sys.modules.update(dict.fromkeys(hidden))
  try:
    return importlib.import_module('bm25s')
  finally:
    for name in hidden:
      del sys.modules[name]
    sys.modules.update(before)
