"""How much of what an exact search finds the index finds, and what it takes for that.

The queries are titles of documents drawn from the corpus, as the encoder encodes queries, or, where
there is no encoder, the drawn documents' vectors with noise. Everything goes through the very index
that the retriever will open. The parameters are the smallest that reach the target, since the time
of a search grows with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from faiss.contrib import exhaustive_search

from jaxsearch.retrieval import faiss_index
from jaxsearch.retrieval import store as stores
from jaxsearch.retrieval.indexing import embedding, training
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.retrieval.indexing.vectors import Vectors

TARGET = 0.97
_QUERIES = 1000
_DEPTHS = (1, 3, 10)
_TUNED_AT = 3  # Documents that a search mostly asks for.
_SEED = 1
# Length of the noise, of that of the vector: query and document then have a cosine of 0.8.
_NOISE = 0.75
_TITLE_WORDS = 16  # Of the text, where a document has no title.
# Less than this is chance: about half of the standard error of the mean over the queries.
_GAIN = 0.002
_STEPS = {
  'nprobe': [2**i for i in range(12)],
  'efSearch': [2**i for i in range(4, 11)],
  'k_factor': [4, 16, 64],
}


def queries(
  vectors: Vectors, store: stores.Store, encoder: embedding.Encoder | None
) -> tuple[np.ndarray, str]:
  """(float32 [queries, dimensions], what they are), the same at every call."""
  draw = np.random.default_rng(_SEED)
  count = min(_QUERIES, vectors.documents)
  rows = np.sort(draw.choice(vectors.documents, count, replace=False))
  if encoder:
    found = encoder.encode([_title(store, int(row)) for row in rows], 'query')
    return np.ascontiguousarray(found, np.float32), 'titles of documents'
  table = vectors.rows(rows)
  noise = draw.normal(size=table.shape).astype(np.float32)
  lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (table, noise)]
  noise *= _NOISE * lengths[0] / lengths[1]
  return table + noise, f'vectors of documents with {_NOISE} times their length of noise'


def exact(vectors: Vectors, asked: np.ndarray, show: Progress) -> np.ndarray:
  """int64 [queries, 10]: the rows that an exact search finds; reads all vectors once."""

  def blocks() -> Iterator[np.ndarray]:
    with show.stage('exact search', vectors.documents, 'vectors') as advance:
      for block in vectors.blocks():
        yield block
        advance(len(block))

  training.use_all_cores()
  depth = min(_DEPTHS[-1], vectors.documents)
  _, rows = exhaustive_search.knn_ground_truth(
    asked, blocks(), depth, metric_type=faiss.METRIC_INNER_PRODUCT, ngpu=0
  )
  return rows


def tune(
  index: faiss_index.Index, asked: np.ndarray, right: np.ndarray
) -> tuple[faiss_index.Index, dict[str, float]]:
  """(the index, with the smallest settings that reach `TARGET`, or the best; its recall).

  The recall is given at 1, 3 and 10 documents.

  Args:
    index: what is searched.
    asked: the queries.
    right: what `exact` found for them.
  """
  best, chosen = -1.0, index
  for outer in _STEPS['k_factor'] if 'k_factor' in index.settings else [None]:
    for setting, gained in _rising(index, outer, asked, right):
      if gained > best + _GAIN:
        best, chosen = gained, setting
      if best >= TARGET:
        break
    if best >= TARGET:
      break
  return chosen, {str(k): _recall(chosen, asked, right, k) for k in _DEPTHS if k <= right.shape[1]}


def _rising(
  index: faiss_index.Index,
  k_factor: int | None,
  asked: np.ndarray,
  right: np.ndarray,
) -> Iterator[tuple[faiss_index.Index, float]]:
  """(index, recall) while more lists or candidates still find more."""
  fixed = {} if k_factor is None else {'k_factor': k_factor}
  names = [name for name in ('nprobe', 'efSearch') if name in index.settings]
  steps: Sequence[dict[str, Any]] = [{n: s} for n in names for s in _STEPS[n]] or [{}]
  before = -1.0
  for step in steps:
    setting = index.searching({**fixed, **step})
    found = _recall(setting, asked, right, min(_TUNED_AT, right.shape[1]))
    yield setting, found
    if found < before + _GAIN and found > 0.5:
      return
    before = found


def _recall(index: faiss_index.Index, asked: np.ndarray, right: np.ndarray, k: int) -> float:
  found = index.search(asked, k)
  pairs = zip(found, right[:, :k], strict=True)
  hits = sum(len({row for row, _ in some}.intersection(true.tolist())) for some, true in pairs)
  return hits / (k * len(asked))


def _title(store: stores.Store, row: int) -> str:
  document = store.document(row)
  return document.title or ' '.join(itertools.islice(document.text.split(), _TITLE_WORDS))
