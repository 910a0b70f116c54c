"""Indexes of the retriever, one row each: memory, build time, recall, speed.

  python benchmarks/retrieval.py --folder=/tmp/bench --json=retrieval.json

Vectors cluster and their queries are noisy copies; pages are those of the synthetic world, and
their queries are titles. Everything goes through `retrieval.indexing.build` and the backends, and
each index is searched by a process of its own, on one thread, as a worker of the pool searches it.
Data and indexes that are in the folder already are used again, so that on a machine with other work
the searches can be measured in a quiet moment.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import retrieval_data
from absl import app, flags

from jaxsearch import config, plugins
from jaxsearch.retrieval import index_folder, store
from jaxsearch.retrieval.indexing import build, dense
from jaxsearch.types import SearchRequest

_FOLDER = flags.DEFINE_string('folder', '/tmp/retrieval', 'For data and indexes.')
_DOCUMENTS = flags.DEFINE_list('documents', ['100000', '1000000'], 'Sizes of corpora.')
_DIMENSIONS = flags.DEFINE_list('dimensions', ['384', '768'], 'Of vectors; 0: BM25 over pages.')
_FACTORIES = flags.DEFINE_list('factories', [], "FAISS'; `d` for dimensions; none: the choice.")
_MEMORY = flags.DEFINE_integer('memory_gib', 16, 'Budget of dense indexes.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
_WORKER = flags.DEFINE_list('worker', [], 'Internal: backend and index that this process searches.')

_TOP_K = 3
_BATCHES = (1, 64)
_SECONDS = 5.0  # Of measuring at each batch.
_QUERIES = 2048


def main(argv: list[str]) -> None:
  del argv
  if _WORKER.value:
    print(json.dumps(_search(*_WORKER.value)))
    return
  rows = []
  for dimensions in map(int, _DIMENSIONS.value):
    for documents in map(int, _DOCUMENTS.value):
      for factory in (_FACTORIES.value or ['']) if dimensions else ['']:
        rows.append(_row(documents, dimensions, factory.replace('d', str(dimensions))))
        print(json.dumps(rows[-1]), flush=True)
        if _JSON.value:
          pathlib.Path(_JSON.value).write_text(json.dumps(rows, indent=2) + '\n')
  _show(rows)


def _row(documents: int, dimensions: int, factory: str) -> dict[str, Any]:
  folder = pathlib.Path(_FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  corpus = folder / f'pages{documents}.jsonl'
  retrieval_data.write_corpus(corpus, documents)
  name = f'{documents}x{dimensions}{factory.replace(",", "_")}'
  options: dict[str, Any] = {}
  if dimensions:
    vectors = folder / f'vectors{documents}x{dimensions}.npy'
    retrieval_data.write_vectors(vectors, documents, dimensions)
    options['bm25'] = None
    options['dense'] = dense.DenseOptions(
      _MEMORY.value << 30, embeddings=str(vectors), factory=factory
    )
  note = folder / f'{name}.json'
  if not note.exists():
    began, cpu = time.time(), time.process_time()
    build.build(str(corpus), str(folder / name), **options)
    took = {'build_s': time.time() - began, 'build_cpu_s': time.process_time() - cpu}
    note.write_text(json.dumps({key: round(value, 1) for key, value in took.items()}))
  part = index_folder.read_info(folder / name).get('dense', {})
  return {
    'documents': documents,
    'dimensions': dimensions,
    'index': part.get('factory', 'BM25'),
    'search': part.get('search', {}),
    **json.loads(note.read_text()),
    'recall': part['recall']['at'] if part else None,
    'disk_mb': _megabytes(folder / name / ('dense' if dimensions else 'bm25')),
    **_measured('dense' if dimensions else 'bm25', folder / name),
  }


def _measured(backend: str, index: pathlib.Path) -> dict[str, Any]:
  """What a process of its own says of its searches."""
  told = [f'--worker={backend},{index}', f'--folder={_FOLDER.value}']
  done = subprocess.run(
    [sys.executable, __file__, *told], stdout=subprocess.PIPE, text=True, check=True
  )
  return json.loads(done.stdout.splitlines()[-1])


def _search(backend: str, index: str) -> dict[str, Any]:
  settings = config.Retrieval(backend=backend, index=index)
  before = _memory()
  opened = plugins.load('retrieval.backends', backend).open(settings)
  requests = _requests(index)
  after = _memory()
  opened.search(requests)  # Pages that searches need are in memory from here on.
  warm = _memory()
  figures: dict[str, Any] = {
    'private_mb': round(warm['Anonymous'] - after['Anonymous'], 1),
    'mapped_mb': round(warm['Rss'] - warm['Anonymous'] - before['Rss'] + before['Anonymous'], 1),
  }
  for batch in _BATCHES:
    times, cpu = [], time.process_time()
    until = time.perf_counter() + _SECONDS
    first = 0
    while time.perf_counter() < until:
      some = [requests[(first + i) % len(requests)] for i in range(batch)]
      start = time.perf_counter()
      opened.search(some)
      times.append(time.perf_counter() - start)
      first += batch
    cpu = time.process_time() - cpu
    figures[f'batch_{batch}'] = {
      'queries_per_s': round(batch * len(times) / sum(times), 1),
      'queries_per_cpu_s': round(batch * len(times) / cpu, 1),
      'p50_ms': round(1000 * float(np.percentile(times, 50)), 2),
      'p95_ms': round(1000 * float(np.percentile(times, 95)), 2),
    }
  return figures


def _requests(index: str) -> list[SearchRequest]:
  """Titles, and, where the index has vectors, noisy copies of the documents' own."""
  draw = np.random.default_rng(7)
  documents = store.Store(index)
  rows = draw.integers(len(documents), size=_QUERIES)
  titles = [documents.document(int(row)).title for row in rows]
  given = index_folder.read_info(index).get('dense')
  vectors = [None] * len(rows)
  if given:
    path = pathlib.Path(_FOLDER.value, f'vectors{len(documents)}x{given["dimensions"]}.npy')
    table = np.load(path, mmap_mode='r')[np.sort(rows)].astype(np.float32)
    noise = draw.normal(size=table.shape).astype(np.float32)
    table += 0.75 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    vectors = [row[None] for row in table]
  return [
    SearchRequest('', 0, 0, (title,), _TOP_K, '', 0.0, 0, vector)
    for title, vector in zip(titles, vectors, strict=True)
  ]


def _memory() -> dict[str, float]:
  """Megabytes of this process, by kind."""
  lines = pathlib.Path('/proc/self/smaps_rollup').read_text().splitlines()[1:]
  return {line.split(':')[0]: int(line.split()[1]) / 1000 for line in lines}


def _megabytes(folder: pathlib.Path) -> float:
  return round(sum(path.stat().st_size for path in folder.rglob('*')) / 1e6, 1)


def _show(rows: list[dict[str, Any]]) -> None:
  """A table for docs/retrieval.md."""
  print(
    '| documents | index | build s (CPU s) | disk MB | mapped MB | private MB | recall@3 | ', end=''
  )
  print('q/s, batch 1 (CPU; p50, p95 ms) | q/s, batch 64 (the same) |')
  print('|' + '---|' * 9)
  for row in rows:
    recall = f'{row["recall"]["3"]:.3f}' if row['recall'] else 'exact'
    search = ''.join(f', {name} {value}' for name, value in row['search'].items())
    size = f'{row["documents"]:,}' + (f' x {row["dimensions"]}' if row['dimensions'] else '')
    told = [_speed(row[f'batch_{batch}']) for batch in _BATCHES]
    sizes = [row[f'{kind}_mb'] for kind in ('disk', 'mapped', 'private')]
    cells = [size, row['index'] + search, f'{row["build_s"]} ({row["build_cpu_s"]})']
    print('| ' + ' | '.join(map(str, [*cells, *sizes, recall, *told])) + ' |')


def _speed(figures: dict[str, float]) -> str:
  return (
    f'{figures["queries_per_s"]:.0f} ({figures["queries_per_cpu_s"]:.0f}; {figures["p50_ms"]}, '
    f'{figures["p95_ms"]})'
  )


if __name__ == '__main__':
  app.run(main)
