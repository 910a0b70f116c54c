"""The index files of bm25s, made from the runs, some words at a time.

bm25s makes its table of scores in memory. This makes the same table, bit for bit, with memory for
as many postings as are asked for: the scores of Lucene's BM25, in the library's own precision, as
columns of words over rows of documents. The library writes the rest and searches it.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np

from jaxsearch.retrieval import _lexical, index_folder, store
from jaxsearch.retrieval.indexing import words
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import UserError

PARAMETERS = {'method': 'lucene', 'k1': 1.5, 'b': 0.75}
_SCORES, _ROWS, _COLUMNS = (f'{name}.csc.index.npy' for name in ('data', 'indices', 'indptr'))


def write(folder: pathlib.Path, *, postings: int, show: Progress) -> dict[str, Any]:
  """Writes the files from the last committed word on.

  Args:
    folder: of the index, beside which all runs lie.
    postings: that are in memory at a time, 24 bytes each; one word's at least.
    show: is told the postings.

  Returns:
    Numbers of words and of postings.

  Raises:
    UserError: if the documents hold no words.
  """
  paths = words.runs(folder.parent)
  frequencies, lengths, documents = _count(paths)
  if not len(frequencies):
    raise UserError('The corpus holds no words to index. Is it the right file?')
  bounds = np.concatenate([[0], np.cumsum(frequencies)])
  weights = _weights(frequencies, documents)
  average = np.float64(lengths) / documents
  state = folder.parent / 'postings.json'
  if not state.exists():
    _begin(folder, documents, bounds)
    index_folder.write_json(state, 0)
  start = json.loads(state.read_text())
  with (
    show.stage('postings', int(bounds[-1]), 'postings', int(bounds[start])) as advance,
    _open(folder / _lexical.FILES / _SCORES, np.float32, bounds, start) as scores_file,
    _open(folder / _lexical.FILES / _ROWS, np.int32, bounds, start) as rows_file,
  ):
    while start < len(frequencies):
      stop = max(start + 1, int(np.searchsorted(bounds, bounds[start] + postings, 'right')) - 1)
      rows, scores = _columns(paths, start, bounds[start : stop + 1], weights, average)
      for file, values in ((scores_file, scores), (rows_file, rows)):
        file.write(values)
        store.sync(file)
      advance(int(bounds[stop] - bounds[start]))
      start = stop
      index_folder.write_json(state, start)
  return {'words': len(frequencies), 'postings': int(bounds[-1])}


def _count(paths: list[pathlib.Path]) -> tuple[np.ndarray, int, int]:
  """(documents that hold each word, words of all documents, documents)."""
  frequencies = np.zeros(words.Run(paths[-1]).vocabulary, np.int64)
  length = documents = 0
  for path in paths:
    run = words.Run(path)
    frequencies[run.terms] += np.diff(run.bounds)
    length += int(run.lengths.sum(dtype=np.int64))
    documents += len(run.lengths)
  return frequencies, length, documents


def _weights(frequencies: np.ndarray, documents: int) -> np.ndarray:
  """Inverse document frequency of each word, float32 [words]."""
  values, which = np.unique(frequencies, return_inverse=True)
  logs = [math.log(1 + (documents - n + 0.5) / (n + 0.5)) for n in values.tolist()]
  return np.asarray(logs, np.float32)[which]


def _begin(folder: pathlib.Path, documents: int, bounds: np.ndarray) -> None:
  """Has the library write all but the table, and puts the place of each word into it."""
  engine = _lexical.library().BM25(**PARAMETERS, dtype='float32', int_dtype='int32')
  known = words.vocabulary(folder.parent, len(bounds) - 1)
  engine.vocab_dict = {word: number for number, word in enumerate(known)}
  engine.nonoccurrence_array = None
  engine.scores = {
    'data': np.empty(0, np.float32),
    'indices': np.empty(0, np.int32),
    'indptr': bounds,
    'num_docs': documents,
  }
  engine.save(folder / _lexical.FILES, show_progress=False)
  for name, kind in ((_SCORES, '<f4'), (_ROWS, '<i4')):
    with (folder / _lexical.FILES / name).open('wb') as file:
      header = {'descr': kind, 'fortran_order': False, 'shape': (int(bounds[-1]),)}
      np.lib.format.write_array_header_1_0(file, header)


def _open(path: pathlib.Path, kind: type, bounds: np.ndarray, start: int) -> Any:
  """The file of a column array, cut off behind the postings of the words before `start`."""
  with path.open('rb') as file:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    header = file.tell()
  return store.open_at(path, header + np.dtype(kind).itemsize * int(bounds[start]))


def _columns(
  paths: list[pathlib.Path], start: int, bounds: np.ndarray, weights: np.ndarray, average: float
) -> tuple[np.ndarray, np.ndarray]:
  """(documents, scores) of the postings of the words from `start` on, word by word."""
  heads = bounds[:-1] - bounds[0]  # Where the next document of each word goes.
  rows = np.empty(bounds[-1] - bounds[0], np.int32)
  scores = np.empty(len(rows), np.float32)
  k1, b = PARAMETERS['k1'], PARAMETERS['b']
  first = 0
  for path in paths:
    run = words.Run(path)
    a, z = np.searchsorted(run.terms, [start, start + len(heads)])
    terms, sizes = run.terms[a:z] - start, np.diff(run.bounds[a : z + 1])
    low, high = run.bounds[a], run.bounds[z]
    inside = np.arange(high - low) - np.repeat(run.bounds[a:z] - low, sizes)
    places = np.repeat(heads[terms], sizes) + inside
    heads[terms] += sizes
    rows[places] = run.documents[low:high] + np.uint32(first)
    # In float64 from here to the last rounding, as numpy does it in the library.
    counts = run.counts[low:high].astype(np.float64)
    norms = k1 * ((1 - b) + b * run.lengths / average)
    parts = counts / (norms[run.documents[low:high]] + counts)
    scores[places] = np.repeat(weights[start + terms], sizes) * parts
    first += len(run.lengths)
  return rows, scores
