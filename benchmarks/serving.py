"""How much `jaxsearch serve` costs beside the index that it serves.

  python benchmarks/serving.py --documents=100000 --json=serving.json

Makes a corpus of words drawn as words of a language are (the n-th with a share of about 1 / n), an
index of it, and asks: first the BM25 backend in this very process, then servers with one and two
workers, over kept connections, from clients that each wait for an answer before they ask again; and
through the backend `http`, as a worker of a trainer does.
Servers of the backend `none` show what HTTP, JSON and the pool take without any search. The clients
are one process, which takes its part of the machine too; `server_cpu_ms` is what a request takes of
a core in the server's process, without its workers, which a busy machine changes little.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import psutil
from absl import app, flags

from jaxsearch import config
from jaxsearch.retrieval.backends import bm25, http
from jaxsearch.retrieval.backends._contract import Backend
from jaxsearch.retrieval.indexing import build
from jaxsearch.types import SearchRequest

_DOCUMENTS = flags.DEFINE_integer('documents', 100_000, 'Of the corpus.', 100)
_SECONDS = flags.DEFINE_float('seconds', 5.0, 'Of every measurement.', 0.1)
_CLIENTS = flags.DEFINE_list('clients', ['1', '16', '64'], 'At a time, in turn.')
_BATCHES = flags.DEFINE_list('batches', ['1', '64'], 'Queries of a request, in turn.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORDS = 60  # Of a document.
_QUERY_WORDS = 6
_VOCABULARY = 200_000
_TOP_K = 3


def main(argv: Sequence[str]) -> None:
  """Measures, prints a table, writes the file."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    index, queries = _make(pathlib.Path(folder))
    backend = bm25.open(config.Retrieval(index=index))
    rows = [_call(backend, 'bm25 in process', queries, int(batch)) for batch in _BATCHES.value]
    _show(rows)
    servers = [('bm25', 1), ('bm25', 2), ('none', 1)]
    for name, workers in servers:
      with _server(index, name, workers) as (url, process):
        for batch in map(int, _BATCHES.value):
          for clients in map(int, _CLIENTS.value):
            before = sum(process.cpu_times()[:2])
            loaded, requests = asyncio.run(_load(url, queries, batch, clients))
            cpu_ms = 1e3 * (sum(process.cpu_times()[:2]) - before) / requests
            loaded['server_cpu_ms'] = round(cpu_ms, 2)
            rows.append({'what': f'serve {name}', 'workers': workers, **loaded})
            _show(rows[-1:])
          client = http.open(config.Retrieval(backend='http', url=url))
          called = _call(client, f'backend http, serve {name}', queries, batch)
          rows.append({**called, 'workers': workers})
          _show(rows[-1:])
          client.close()
  if _JSON.value:
    machine = {'cores': os.cpu_count(), 'cpu': _cpu(), 'python': platform.python_version()}
    figures = {'machine': machine, 'documents': _DOCUMENTS.value, 'rows': rows}
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


def _make(folder: pathlib.Path) -> tuple[str, list[str]]:
  """An index, and 10,000 queries out of words of its documents."""
  rng = np.random.default_rng(0)
  share = 1.0 / np.arange(10, _VOCABULARY + 10)
  drawn = rng.choice(_VOCABULARY, size=(_DOCUMENTS.value, _WORDS), p=share / share.sum())
  with (folder / 'corpus.jsonl').open('w') as file:
    for n, words in enumerate(drawn):
      text = ' '.join(f'w{word}' for word in words)
      file.write(json.dumps({'id': str(n), 'contents': f'document {n}\n{text}'}) + '\n')
  build.build(str(folder / 'corpus.jsonl'), str(folder / 'index'))
  picks = rng.integers(0, len(drawn), 10_000)
  queries = [' '.join(f'w{w}' for w in rng.choice(drawn[n], _QUERY_WORDS)) for n in picks]
  return str(folder / 'index'), queries


def _call(backend: Backend, what: str, queries: Sequence[str], batch: int) -> dict[str, Any]:
  """A backend, called by this process, which does nothing else."""
  requests = [SearchRequest('', 0, 0, (query,), _TOP_K, '', 0.0, 0) for query in queries]
  latencies, end = [], time.perf_counter() + _SECONDS.value
  while (start := time.perf_counter()) < end:
    first = len(latencies) * batch % (len(requests) - batch)
    backend.search(requests[first : first + batch])
    latencies.append(time.perf_counter() - start)
  return {'what': what, 'workers': 0, **_figures(latencies, batch, 1)}


@contextlib.contextmanager
def _server(index: str, backend: str, workers: int) -> Iterator[tuple[str, psutil.Process]]:
  """A server at a free port: its address and its process."""
  command = [sys.executable, '-m', 'jaxsearch', 'serve', '--port=0', f'--index={index}']
  # Without the cache: what is measured is work.
  command += [f'--backend={backend}', f'--workers={workers}', '--config.retrieval.cache_queries=0']
  env = {**os.environ, 'PYTHONPATH': str(_ROOT)}
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
    try:
      url = re.search(r'http://\S+', process.stdout.readline())[0]
      yield url, psutil.Process(process.pid)
    finally:
      process.send_signal(signal.SIGTERM)


async def _load(
  url: str, queries: Sequence[str], batch: int, clients: int
) -> tuple[dict[str, Any], int]:
  """Figures of so many clients at once, after one second that is not counted; all requests."""
  latencies: list[float] = []
  requests = 0
  begin = time.perf_counter() + 1.0
  end = begin + _SECONDS.value

  async def client(session: aiohttp.ClientSession, number: int) -> None:
    nonlocal requests
    first = number * 997
    while (start := time.perf_counter()) < end:
      first = (first + batch) % (len(queries) - batch)
      body = {'queries': queries[first : first + batch], 'topk': _TOP_K, 'return_scores': True}
      async with session.post(f'{url}/retrieve', json=body) as response:
        reply = await response.json()
      assert len(reply['result']) == batch, reply
      requests += 1
      if start >= begin:
        latencies.append(time.perf_counter() - start)

  async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
    await asyncio.gather(*(client(session, number) for number in range(clients)))
  return _figures(latencies, batch, clients), requests


def _figures(latencies: Sequence[float], batch: int, clients: int) -> dict[str, Any]:
  p50, p95, p99 = (1e3 * float(np.quantile(latencies, q)) for q in (0.5, 0.95, 0.99))
  per_s = len(latencies) * clients * batch / sum(latencies)
  times = {'p50_ms': round(p50, 2), 'p95_ms': round(p95, 2), 'p99_ms': round(p99, 2)}
  return {'batch': batch, 'clients': clients, 'queries_per_s': round(per_s, 1), **times}


def _cpu() -> str:
  found = re.search(r'model name\s*: (.*)', pathlib.Path('/proc/cpuinfo').read_text())
  return found[1] if found else platform.processor()


def _show(rows: Sequence[dict[str, Any]]) -> None:
  for row in rows:
    print('  '.join(f'{name}={value}' for name, value in row.items()), flush=True)


if __name__ == '__main__':
  app.run(main)
