"""Filling an index that FAISS must hold in memory as a whole, saved every so often.

Flat for small corpora, and whatever `--factory` names beside lists, such as HNSW over documents.
"""

from __future__ import annotations

import pathlib

import faiss

from jaxsearch.retrieval.indexing import training
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.retrieval.indexing.vectors import Vectors

# How often it is saved. What a kill costs is one part; what saving costs grows with their number.
_PARTS = 16
_SEED = 12345


def fill(path: pathlib.Path, index: faiss.Index, vectors: Vectors, show: Progress) -> None:
  """Adds all vectors, or those that are missing in `path`, and writes `path`.

  Args:
    path: the index so far, if there is one; then the whole.
    index: trained and empty.
    vectors: all of them.
    show: is told the vectors.
  """
  if path.exists():
    index = faiss.read_index(str(path))
  graph = _graph(index)
  training.use_all_cores()
  if graph:
    faiss.omp_set_num_threads(1)  # Several threads make another graph each time.
  blocks = max(1, -(-vectors.documents // (_PARTS * vectors.block)))
  first = index.ntotal // vectors.block
  with show.stage('vectors', vectors.documents, 'vectors', index.ntotal) as advance:
    for number, block in enumerate(vectors.blocks(index.ntotal), first):
      if graph:  # One that was read begins its random numbers again: so does every block.
        graph.hnsw.rng = faiss.RandomGenerator(_SEED + number)
      index.add(block)
      if (number + 1) % blocks == 0 or index.ntotal == vectors.documents:
        training.write(index, path)
      advance(len(block))


def _graph(index: faiss.Index) -> faiss.IndexHNSW | None:
  """The graph over the documents, wherever in the index it is."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexHNSW):
    return index
  inner = [getattr(index, name) for name in ('base_index', 'index') if hasattr(index, name)]
  return _graph(inner[0]) if inner else None
