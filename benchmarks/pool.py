"""What the pool adds to a retriever: throughput at saturation, and latency when idle.

  .venv/bin/python benchmarks/pool.py --folder=/tmp/pool --documents=100000 --json=FILE

Pages of the synthetic world are written to the folder and indexed for BM25, if they are not there.

At saturation the backend alone, in as many processes as the pool has workers and in batches of 64,
is compared with a pool whose callers always have four such batches per worker in flight; runs take
turns. Idle, one search at a time: its latency through the pool against that of the call alone.
Every query is asked once only and the cache is off: what is measured is work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Iterator

for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):  # As the pool's workers have it.
  os.environ.setdefault(_name, '1')

import retrieval_data  # noqa: E402

from jaxsearch import config  # noqa: E402
from jaxsearch.retrieval import pool as pools  # noqa: E402
from jaxsearch.retrieval import store  # noqa: E402
from jaxsearch.retrieval.backends import bm25  # noqa: E402
from jaxsearch.retrieval.indexing import build  # noqa: E402
from jaxsearch.types import SearchRequest  # noqa: E402

BATCH = 64


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--documents', type=int, default=100_000)
  parser.add_argument('--workers', type=int, default=2)
  parser.add_argument('--seconds', type=float, default=5.0, help='of a run')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', default='')
  arguments = parser.parse_args()
  index, texts = _index(arguments.folder, arguments.documents)
  settings = config.Retrieval(index=index, workers=arguments.workers, cache_queries=0)
  alone, pooled = [], []
  with (
    pools.Pool(settings) as pool,
    multiprocessing.get_context('spawn').Pool(arguments.workers, _open, (settings,)) as processes,
  ):
    for _ in range(arguments.repeats):
      alone.append(_alone(processes, texts, arguments))
      pooled.append(_pooled(pool, texts, arguments))
    idle = _idle(pool, texts, settings)
  figures = {
    'alone_queries_per_s': statistics.median(alone),
    'pool_queries_per_s': statistics.median(pooled),
    'ratio': statistics.median(p / a for p, a in zip(pooled, alone, strict=True)),
    **idle,
  }
  for name, value in figures.items():
    print(f'{name:<24}{value:>12.3f}')
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + '\n')


def _index(folder: pathlib.Path, documents: int) -> tuple[str, list[str]]:
  """Folder of the index, and queries: the beginnings of its pages."""
  folder.mkdir(parents=True, exist_ok=True)
  corpus, index = folder / f'{documents}.jsonl', folder / f'{documents}'
  if not (index / 'index.json').exists():
    retrieval_data.write_corpus(corpus, documents)
    build.build(str(corpus), str(index))
  pages = store.Store(index)
  some = (pages.document(i) for i in range(0, len(pages), max(1, len(pages) // 5000)))
  return str(index), [f'{page.title} {" ".join(page.text.split()[:8])}' for page in some]


def _requests(texts: list[str], start: int) -> Iterator[SearchRequest]:
  """Queries without end, no two of them alike."""
  for i in itertools.count(start):
    query = f'{texts[i % len(texts)]} {i}'
    yield SearchRequest(f'0.{i}.0', 0, 0, (query,), 3, '', 0.0, i)


def _open(settings: config.Retrieval) -> None:
  global _backend
  _backend = bm25.open(settings)


def _search_for(job: tuple[list[str], int, float]) -> float:
  """Queries per second of one process."""
  texts, start, seconds = job
  requests, count, began = _requests(texts, start), 0, time.monotonic()
  while time.monotonic() - began < seconds:
    count += len(_backend.search(list(itertools.islice(requests, BATCH))))
  return count / (time.monotonic() - began)


def _alone(processes: multiprocessing.pool.Pool, texts: list[str], arguments) -> float:
  jobs = [(texts, i * len(texts) // 2, arguments.seconds) for i in range(arguments.workers)]
  return sum(processes.map(_search_for, jobs, chunksize=1))


def _pooled(pool: pools.Pool, texts: list[str], arguments) -> float:
  requests, count, began = _requests(texts, 0), 0, time.monotonic()
  while (elapsed := time.monotonic() - began) < arguments.seconds:
    for request in itertools.islice(requests, 4 * BATCH * arguments.workers - pool.pending):
      pool.submit(request)
    count += len(pool.poll(1.0))
  while pool.pending:
    pool.poll(1.0)
  return count / elapsed


def _idle(pool: pools.Pool, texts: list[str], settings: config.Retrieval) -> dict[str, float]:
  """Milliseconds of single searches, through the pool and without."""
  _open(settings)
  direct, through = [], []
  for request in itertools.islice(_requests(texts, 0), 500):
    began = time.monotonic()
    _backend.search([request])
    middle = time.monotonic()
    pool.submit(request)
    while not pool.poll(1.0):
      pass
    direct.append(1000 * (middle - began))
    through.append(1000 * (time.monotonic() - middle))
  added = [b - a for a, b in zip(direct, through, strict=True)]
  return {
    'idle_alone_p50_ms': statistics.median(direct),
    'idle_pool_p50_ms': statistics.median(through),
    'idle_added_p50_ms': statistics.median(added),
    'idle_added_p95_ms': sorted(added)[int(0.95 * len(added))],
  }


if __name__ == '__main__':
  main()
