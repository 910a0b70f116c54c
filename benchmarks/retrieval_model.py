"""What an index of 21 million documents would find, from smaller ones that look like parts of it.

  python benchmarks/retrieval_model.py --folder=/tmp/bench --json=model.json

Where the neighbours of a query are and which lists they are in is decided near it: by how many
documents lie about a centre of the distribution, and how many lists cut them up. So each corpus has
as many documents about a centre as 21 million have about 10,000, and each index 320 documents a
list, as IVF65536 has of Wikipedia; only the number of centres grows, as if ever larger parts of the
large corpus were seen. What such a series shows to be constant is so at 21 million.

`--dense=false` holds the number of centres at 10,000 instead: corpora drawn more and more often
from one distribution.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import retrieval_data
from absl import app, flags

from jaxsearch.retrieval import faiss_index
from jaxsearch.retrieval.indexing import factories, lists, recall, training, vectors
from jaxsearch.retrieval.indexing.progress import Progress

_FOLDER = flags.DEFINE_string('folder', '/tmp/retrieval', 'For data and indexes.')
_LISTS = flags.DEFINE_list('lists', ['64', '128', '256', '512', '1024'], 'Of each index.')
_DIMENSIONS = flags.DEFINE_integer('dimensions', 768, 'Of vectors.')
_DENSE = flags.DEFINE_bool('dense', True, 'Documents about a centre as of 21 million; see above.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')

_PER_LIST = 320
_TARGETS = (0.95, 0.97)
_WIKIPEDIA, _WIKIPEDIA_LISTS = 21_015_324, 65_536
_CENTRES = 10_000
_MEMORY = 2**30


def main(argv: list[str]) -> None:
  del argv
  folder = pathlib.Path(_FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for count in map(int, _LISTS.value):
    rows.append(_row(folder, count))
    print(json.dumps(rows[-1]), flush=True)
  found = {'measured': rows, 'extrapolated': _extrapolated(rows)}
  print(json.dumps(found['extrapolated'], indent=2))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + '\n')


def _row(root: pathlib.Path, count: int) -> dict[str, Any]:
  documents = _PER_LIST * count
  centres = round(_CENTRES * documents / _WIKIPEDIA) if _DENSE.value else _CENTRES
  path, folder = root / f'model{count}.npy', root / f'model{count}'
  folder.mkdir(exist_ok=True)
  retrieval_data.write_vectors(path, documents, _DIMENSIONS.value, centres)
  some = vectors.adopt(str(path), documents, None)
  show = Progress()
  plan = factories.described(
    f'IVF{count}_HNSW32,SQ8', some.documents, some.dimensions, 'model', _MEMORY
  )
  trained = training.trained(folder / 'trained.faiss', plan, some, show)
  lists.add(folder, trained, some, show)
  lists.assemble(folder, trained, folder / 'index.faiss', _MEMORY)
  asked, _ = recall.queries(some, None, None)
  right = recall.exact(some, asked, show)
  index = faiss_index.Index(folder / 'index.faiss')
  probes = [2**i for i in range(count.bit_length())]
  curve = {p: _recall(index.searching({'nprobe': p}), asked, right[:, :3]) for p in probes}
  size = (folder / 'index.faiss').stat().st_size
  shutil.rmtree(folder)
  path.unlink()
  return {
    'documents': some.documents,
    'centres': centres,
    'lists': count,
    'recall@3': curve,
    'all_lists': curve[count],
    'probes': {str(target): _needed(curve, target) for target in _TARGETS},
    'bytes_per_document': size / some.documents,
    'bytes_per_document_planned': plan.disk / some.documents,
  }


def _recall(index: faiss_index.Index, asked: np.ndarray, right: np.ndarray) -> float:
  found = index.search(asked, right.shape[1])
  hits = sum(
    len({row for row, _ in some}.intersection(true.tolist()))
    for some, true in zip(found, right, strict=True)
  )
  return hits / right.size


def _needed(curve: dict[int, float], target: float) -> float:
  """Lists to visit for a recall, between those that were tried as the logarithm has it."""
  return float(2 ** np.interp(target, list(curve.values()), np.log2(list(curve))))


def _extrapolated(rows: list[dict[str, Any]]) -> dict[str, Any]:
  counts = np.log2([row['lists'] for row in rows])
  found: dict[str, Any] = {}
  for target in map(str, _TARGETS):
    probes = np.log2([row['probes'][target] for row in rows])
    power, start = np.polyfit(counts, probes, 1)
    wanted = 2 ** (start + power * np.log2(_WIKIPEDIA_LISTS))
    residual = np.abs(probes - start - power * counts).max()
    found[target] = {
      'power': power,
      'largest_residual': 2**residual,
      'probes': wanted,
      'share_of_lists': wanted / _WIKIPEDIA_LISTS,
      'codes_read': wanted * _WIKIPEDIA / _WIKIPEDIA_LISTS,
    }
  # What the codes lose when every list is visited: neighbours of a denser corpus differ by less.
  losses = np.log2([1.0 - row['all_lists'] for row in rows])
  power, start = np.polyfit(counts, losses, 1)
  found['all_lists'] = 1.0 - 2 ** (start + power * np.log2(_WIKIPEDIA_LISTS))
  plan = factories.choose(_WIKIPEDIA, _DIMENSIONS.value, 16 * 2**30)
  return {**found, 'factory': plan.factory, 'resident_bytes': plan.resident}


if __name__ == '__main__':
  app.run(main)
