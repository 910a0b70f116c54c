"""The workers of a host share one copy of an index."""

import contextlib
import os
import pathlib
import subprocess
import sys

import faiss
import mapped_worker
import numpy as np
import pytest

from jaxsearch.retrieval import index_folder, store
from jaxsearch.retrieval.indexing import dense
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import Document

D, BLOCK = 768, 8192
WORKERS = 4
# Factory -> blocks, for 50 to 100 MB.
KINDS = {'IVF16,SQ8': 16, 'Flat': 4, 'IVF16_HNSW32,RaBitQ2,Refine(SQ8)': 6}


@pytest.fixture(scope='module', params=KINDS)
def folder(request, tmp_path_factory):
  """A folder with an index file of somebody else's, which it links."""
  root = tmp_path_factory.mktemp('mapped')
  blocks = KINDS[request.param]
  with store.Writer(root) as writer:
    for i in range(BLOCK * blocks):
      writer.add(Document(str(i), '', 'text'))
    writer.commit()
  table = np.random.default_rng(1).normal(size=(BLOCK, D)).astype(np.float32)
  index = faiss.index_factory(D, request.param, faiss.METRIC_INNER_PRODUCT)
  index.train(table[:1000])
  for _ in range(blocks):
    index.add(table)
  faiss.write_index(index, str(root / 'theirs.index'))
  options = dense.DenseOptions(2**30, faiss=str(root / 'theirs.index'))
  part = dense.build(root, options, 'hash', Progress())
  index_folder.write_info(root, {'documents': BLOCK * blocks, 'corpus': {}, 'dense': part})
  return root


def _growth(folder, workers):
  """Bytes that so many workers need together once all have searched: (all, their own)."""
  path = os.pathsep.join([str(pathlib.Path(mapped_worker.__file__).parent), *sys.path])
  command = [sys.executable, mapped_worker.__file__, str(folder), str(D)]
  with contextlib.ExitStack() as stack:
    processes = [
      stack.enter_context(
        subprocess.Popen(
          command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          text=True,
          env={**os.environ, 'PYTHONPATH': path},
        )
      )
      for _ in range(workers)
    ]
    for process in processes:
      assert process.stdout.readline() == 'searched\n'
    told = []
    for process in processes:
      process.stdin.write('\n')
      process.stdin.flush()
      told.append([int(word) for word in process.stdout.readline().split()])
    for process in processes:
      process.stdin.close()
  return np.sum(told, axis=0)


@pytest.mark.slow
def test_more_workers_need_hardly_more_memory(folder, record_property):
  size = os.path.getsize(folder / 'theirs.index')
  (one, _), (all_of_them, own) = _growth(folder, 1), _growth(folder, WORKERS)
  record_property('bytes', [size, int(one), int(all_of_them), int(own)])
  print(f'file {size / 1e6:.0f} MB, 1 worker {one / 1e6:.0f} MB, {WORKERS} {all_of_them / 1e6:.0f}')
  assert one > 0.15 * size  # It was read at all: of Refine, the codes alone.
  assert all_of_them - one < 0.1 * WORKERS * size
  assert own < 0.1 * WORKERS * size
