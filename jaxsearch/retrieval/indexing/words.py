"""The words of the documents, counted: runs of documents, each sorted by word.

A run holds, for documents that follow one another, which word stands how often in which of them.
It is a file that is there whole or not at all, so the runs that are there say where to go on.
"""

from __future__ import annotations

import array
import itertools
import pathlib
from collections.abc import Callable

import numpy as np

from jaxsearch.retrieval import store
from jaxsearch.retrieval.indexing.progress import Progress

_RUNS, _VOCABULARY = 'runs', 'vocabulary'
_HEADER = 4
_WORDS = 1 << 22  # A run ends sooner if its documents are long, so that it fits into memory.


class Run:
  """A run, mapped.

  Attributes:
    vocabulary: words known at its end; ids are given in order of first occurrence.
    lengths: words of each document, uint32 [documents].
    terms: ids of the words that occur, rising, uint32 [terms].
    bounds: where the postings of each word begin, and where the last end, uint32 [terms + 1].
    documents: of each posting, from 0 within the run, rising within a word, uint32 [postings].
    counts: how often the word stands in that document, uint32 [postings].
  """

  def __init__(self, path: pathlib.Path):
    flat = np.memmap(path, np.uint32, 'r')
    self.vocabulary, documents, terms, postings = flat[:_HEADER].tolist()
    sizes = (documents, terms, terms + 1, postings)
    parts = np.split(flat[_HEADER:], np.cumsum(sizes))
    self.lengths, self.terms, self.bounds, self.documents, self.counts = parts


def runs(scratch: pathlib.Path) -> list[pathlib.Path]:
  """Files of the runs that are there, in order of their documents."""
  return sorted((scratch / _RUNS).glob('*.run'))


def vocabulary(scratch: pathlib.Path, size: int) -> list[str]:
  """The first `size` words that were met."""
  with (scratch / _VOCABULARY).open(encoding='utf-8', newline='\n') as file:
    return [line[:-1] for line in itertools.islice(file, size)]


def write(
  folder: pathlib.Path, words_of: Callable[[str], list[str]], *, chunk: int, show: Progress
) -> None:
  """Writes the runs that are missing.

  Args:
    folder: of the index, with all its documents; the runs lie beside it.
    words_of: from a text to its words.
    chunk: most documents of a run.
    show: is told the documents.
  """
  scratch = folder.parent
  (scratch / _RUNS).mkdir(exist_ok=True)
  made = runs(scratch)
  known = Run(made[-1]).vocabulary if made else 0
  words = _Vocabulary(zip(vocabulary(scratch, known), range(known))) if known else _Vocabulary()
  start = sum(len(Run(path).lengths) for path in made)
  total = len(store.Store(folder))
  size = sum(len(word.encode()) + 1 for word in words)
  with (
    show.stage('words', total, 'documents', start) as advance,
    store.open_at(scratch / _VOCABULARY, size) as file,
  ):
    for number in itertools.count(len(made)):
      if start == total:
        break
      known = len(words)
      ids, lengths = _read(folder, start, min(start + chunk, total), words_of, words)
      news = list(itertools.islice(reversed(words), len(words) - known))[::-1]
      file.write(''.join(f'{word}\n' for word in news).encode())
      store.sync(file)
      _save(scratch / _RUNS / f'{number:08d}.run', len(words), ids, lengths)
      start += len(lengths)
      advance(len(lengths))


class _Vocabulary(dict):
  """Word -> id; a word that is new gets the next one."""

  def __missing__(self, word: str) -> int:
    self[word] = number = len(self)
    return number


def _read(
  folder: pathlib.Path,
  start: int,
  stop: int,
  words_of: Callable[[str], list[str]],
  words: _Vocabulary,
) -> tuple[np.ndarray, np.ndarray]:
  """(ids of the words of documents from `start` on, one after the other; lengths)."""
  documents = store.Store(folder)  # Opened for each run: pages that were read are let go.
  ids, lengths = array.array('I'), array.array('I')
  for place in range(start, stop):
    before = len(ids)
    ids.extend(map(words.__getitem__, words_of(store.whole(documents.document(place)))))
    lengths.append(len(ids) - before)
    if len(ids) >= _WORDS:
      break
  return np.asarray(ids, np.uint32), np.asarray(lengths, np.uint32)


def _save(path: pathlib.Path, vocabulary: int, ids: np.ndarray, lengths: np.ndarray) -> None:
  places = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
  keys = np.sort(ids.astype(np.int64) << 32 | places)
  firsts = np.flatnonzero(np.diff(keys, prepend=-1))
  keys, counts = keys[firsts], np.diff(firsts, append=len(keys))
  terms = keys >> 32
  bounds = np.flatnonzero(np.diff(terms, prepend=-1))
  parts = (
    [vocabulary, len(lengths), len(bounds), len(keys)],
    *(lengths, terms[bounds], np.append(bounds, len(keys)), keys & 0xFFFFFFFF, counts),
  )
  draft = path.with_suffix('.partial')
  with draft.open('wb') as file:
    for part in parts:
      file.write(np.asarray(part, np.uint32).tobytes())
    store.sync(file)
  draft.replace(path)
