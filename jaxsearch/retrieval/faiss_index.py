"""A FAISS index, mapped into memory, whose answers depend on the query and the index alone.

FAISS breaks ties by the order in which it happens to look at vectors, and in exact search the last
bits of a score depend on how many queries are asked together. So every index but Flat is asked
query by query, which costs nothing on one thread; of Flat only the candidates come from a product
of matrices, and their scores are computed again. Equal scores are ordered by place in the corpus,
and if the last place is a tie, all that share it are looked at.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping

import faiss
import numpy as np

from jaxsearch.types import UserError

FILE = 'dense/index.faiss'  # Within the folder of an index.

# Ties at the last place are followed up to so many candidates; beyond it FAISS' choice stands.
_MOST_CANDIDATES = 1024
# Of the product of the lengths of query and vector: more than float32 loses in their product.
_ROUNDING = 1e-5
# Candidates in the graph over the centres of lists, for each list that is visited.
_CENTRES_PER_PROBE, _LEAST_CENTRES = 2, 64
# Where nothing was measured. FAISS' own (one list, 16 candidates) find four of five neighbours.
_UNTUNED = {'nprobe': 64, 'efSearch': 128, 'k_factor': 16}

# (row, score), best first.
Hits = list[tuple[int, float]]


class Index:
  """An opened index file. One thread searches it, without any help.

  Attributes:
    documents: vectors that it holds; rows count from 0.
    dimensions: of a query.
    settings: nprobe (lists to visit), efSearch (candidates in a graph), k_factor (candidates to
      score again, for each that is wanted): those of them that the index has.
  """

  def __init__(self, path: str | pathlib.Path, search: Mapping[str, int] | None = None):
    """Maps the file; nothing of it is read but what a search needs.

    Args:
      path: an index file that FAISS wrote, or this package.
      search: settings; None: some that are good enough for most.

    Raises:
      UserError: if FAISS cannot read the file, or the index is none of inner products.
    """
    self._index = _open(path)
    self.documents, self.dimensions = self._index.ntotal, self._index.d
    self.settings = {n: (search or {}).get(n, _UNTUNED[n]) for n in _settings(self._index)}
    self._parameters = _parameters(self._index, self.settings)
    self._is_flat = isinstance(self._index, faiss.IndexFlat)

  def searching(self, search: Mapping[str, int]) -> Index:
    """The same opened index with other settings."""
    other = copy.copy(self)
    other.settings = {**self.settings, **search}
    other._parameters = _parameters(self._index, other.settings)
    return other

  def search(self, queries: np.ndarray, top_k: int) -> list[Hits]:
    """The best `top_k` rows, or fewer, of each query.

    Args:
      queries: finite float32 [queries, dimensions].
      top_k: rows wanted for each.
    """
    # The number of threads is a property of the thread that calls, whatever others have set.
    faiss.omp_set_num_threads(1)
    wanted = min(top_k, self.documents)
    if wanted < 1 or not len(queries):
      return [[] for _ in queries]
    if self._is_flat:
      return self._search_flat(np.ascontiguousarray(queries, np.float32), wanted)
    return [self._search_one(query[None], wanted) for query in queries]

  def _search_one(self, query: np.ndarray, wanted: int) -> Hits:
    asked = wanted + 1  # One more, to see whether the last place is a tie.
    while True:
      scores, rows = self._index.search(query, asked, params=self._parameters)
      scores, rows = scores[0], rows[0]
      is_whole = asked >= min(self.documents, _MOST_CANDIDATES) or rows[-1] < 0
      if is_whole or scores[-1] < scores[wanted - 1]:
        return _best(rows, scores, wanted)
      asked *= 2

  def _search_flat(self, queries: np.ndarray, wanted: int) -> list[Hits]:
    # Else FAISS reads all vectors once for each query, unless there are hundreds of them.
    faiss.cvar.distance_compute_blas_threshold = 1
    asked = min(wanted + 1, self.documents)
    _, candidates = self._index.search(queries, asked)
    return [self._rescored(q, rows, wanted) for q, rows in zip(queries, candidates, strict=True)]

  def _rescored(self, query: np.ndarray, rows: np.ndarray, wanted: int) -> Hits:
    """The best of the candidates, of which more are fetched while the last place is doubtful."""
    while True:
      asked, rows = len(rows), rows[rows >= 0]
      if not len(rows):
        return []
      vectors = self._index.reconstruct_batch(rows).astype(np.float64)
      exact = (vectors * query).sum(axis=1)  # Not a product of matrices: those differ with shape.
      doubt = _ROUNDING * np.linalg.norm(query) * np.linalg.norm(vectors, axis=1).max()
      is_whole = asked > len(rows) or asked >= min(self.documents, _MOST_CANDIDATES)
      if is_whole or exact.min() < np.sort(exact)[-wanted] - doubt:
        return _best(rows, exact, wanted)
      rows = self._index.search(query[None], min(2 * asked, self.documents))[1][0]


def _settings(index: faiss.Index) -> list[str]:
  """Names of the settings that the index has."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexRefine):
    return ['k_factor', *_settings(index.base_index)]
  if isinstance(index, faiss.IndexPreTransform):
    return _settings(index.index)
  if isinstance(index, faiss.IndexIVF):
    return ['nprobe']
  return ['efSearch'] if isinstance(index, faiss.IndexHNSW) else []


def _parameters(index: faiss.Index, search: Mapping[str, int]) -> faiss.SearchParameters | None:
  """`search` as FAISS takes it with each call, so that nothing is set on the index itself."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexRefine):
    return faiss.IndexRefineSearchParameters(
      k_factor=search['k_factor'], base_index_params=_parameters(index.base_index, search)
    )
  if isinstance(index, faiss.IndexPreTransform):
    return faiss.SearchParametersPreTransform(index_params=_parameters(index.index, search))
  if isinstance(index, faiss.IndexIVF):
    probes = min(search['nprobe'], index.nlist)
    centres = None
    if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
      centres = faiss.SearchParametersHNSW(
        efSearch=max(_LEAST_CENTRES, _CENTRES_PER_PROBE * probes)
      )
    return faiss.SearchParametersIVF(nprobe=probes, quantizer_params=centres)
  if isinstance(index, faiss.IndexHNSW):
    return faiss.SearchParametersHNSW(efSearch=search['efSearch'])
  return None


def _open(path: str | pathlib.Path) -> faiss.Index:
  try:
    # The only flag that maps every kind of index (of the other one, most take no notice).
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
  except RuntimeError as error:
    cause = str(error).strip().splitlines()[0]
    raise UserError(
      f'FAISS cannot read the index {str(path)!r}: {cause}. Copy or make it anew.'
    ) from None
  if index.metric_type != faiss.METRIC_INNER_PRODUCT or isinstance(index, faiss.IndexIDMap):
    raise UserError(
      f'{str(path)!r} is a {type(index).__name__} of metric {index.metric_type}; it must be one of '
      'inner products (metric 0), whose ids are rows of the corpus. Build it anew from the vectors.'
    )
  return index


def _best(rows: np.ndarray, scores: np.ndarray, wanted: int) -> Hits:
  """Without what FAISS fills missing places with: row -1, which would be the last document."""
  is_found = (rows >= 0) & np.isfinite(scores)
  rows, scores = rows[is_found], scores[is_found]
  order = np.lexsort((rows, -scores))[:wanted]
  return [(int(rows[i]), float(scores[i])) for i in order]
