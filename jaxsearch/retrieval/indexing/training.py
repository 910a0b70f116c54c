"""Training an index on a sample of the vectors: the same sample and numbers give the same index."""

from __future__ import annotations

import math
import os
import pathlib

import faiss
import numpy as np
from faiss.contrib import clustering

from jaxsearch.retrieval.indexing import factories
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.retrieval.indexing.vectors import Vectors

# From so many centres on, clusters are found first and then cut into smaller ones: the work falls
# from the number of centres to twice its root, in each of the iterations.
_TWO_LEVELS = 4096
_ITERATIONS = 10  # Of k-means; FAISS' own number for lists.
_SEED = 0
# Candidates while the graph over the centres is built, and while a vector looks for its centre.
_EF_CONSTRUCTION, _EF_ASSIGN = 80, 64


def trained(
  path: pathlib.Path, plan: factories.Plan, vectors: Vectors, show: Progress
) -> faiss.Index:
  """The empty index of `plan`, trained; `path` keeps it for the next call."""
  if not path.exists():
    use_all_cores()
    index = faiss.index_factory(vectors.dimensions, plan.factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
      _train(index, _sample(vectors, plan.sample, show))
    write(index, path)
  return faiss.read_index(str(path))


def write(index: faiss.Index, path: pathlib.Path) -> None:
  """Writes an index so that `path` holds all of it or what it held before."""
  draft = path.with_name(f'{path.name}.partial')
  faiss.write_index(index, str(draft))
  with draft.open('rb') as file:
    os.fsync(file.fileno())
  draft.replace(path)


def use_all_cores() -> None:
  """FAISS counts threads for each thread that calls it, and a search has set them to one."""
  faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))


def _sample(vectors: Vectors, count: int, show: Progress) -> np.ndarray:
  """float32 [count, dimensions]; read in blocks, as an array may have to turn much of it over."""
  draw = np.random.default_rng(_SEED)
  rows = np.sort(draw.choice(vectors.documents, count, replace=False))
  sample = np.empty((count, vectors.dimensions), np.float32)
  with show.stage('training sample', count, 'vectors') as advance:
    for first in range(0, count, vectors.block):
      some = rows[first : first + vectors.block]
      sample[first : first + len(some)] = vectors.rows(some)
      advance(len(some))
  return sample


def _train(index: faiss.Index, sample: np.ndarray) -> None:
  ivf = faiss.try_extract_index_ivf(index)
  quantizer = faiss.downcast_index(ivf.quantizer) if ivf else None
  if isinstance(quantizer, faiss.IndexHNSW):
    centres = _centres(_turned(index, sample), ivf.nlist)
    quantizer.hnsw.efConstruction, quantizer.hnsw.efSearch = _EF_CONSTRUCTION, _EF_ASSIGN
    faiss.omp_set_num_threads(1)  # Several threads make another graph each time.
    quantizer.add(centres)
    use_all_cores()
  index.train(sample)  # Leaves centres that are there as they are.


def _turned(index: faiss.Index, sample: np.ndarray) -> np.ndarray:
  """The sample as the lists see it: after the transforms that stand before them."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexRefine):
    return _turned(index.base_index, sample)
  if isinstance(index, faiss.IndexPreTransform):
    for i in range(index.chain.size()):
      transform = faiss.downcast_VectorTransform(index.chain.at(i))
      transform.train(sample)
      sample = transform.apply(sample)
  return sample


def _centres(sample: np.ndarray, count: int) -> np.ndarray:
  """float32 [count, dimensions] of length 1, by k-means."""
  options = {'spherical': True, 'min_points_per_centroid': 1}
  if count < _TWO_LEVELS:
    kmeans = faiss.Kmeans(sample.shape[1], count, niter=_ITERATIONS, **options)
    kmeans.train(sample)
    return kmeans.centroids
  first = math.isqrt(count)
  centres, _ = clustering.two_level_clustering(
    sample, first, count, clustering_niter=_ITERATIONS, **options
  )
  return centres
