"""The first stage: from the corpus file to the store, and that no two documents share an id."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

import numpy as np

from jaxsearch.retrieval import corpus as corpora
from jaxsearch.retrieval import index_folder, store
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import UserError

_HASH_BYTES = 8
# Of hashes that are sorted together: 256 MB with their copy.
_SORTED = 1 << 24


def write(
  corpus: corpora.Corpus, folder: pathlib.Path, *, chunk: int, show: Progress
) -> tuple[int, str]:
  """Writes the documents into the store of `folder`, from the last committed one on.

  Args:
    corpus: not read yet.
    folder: of the index; what is committed stands beside it.
    chunk: documents between two commits.
    show: is told the megabytes of the file.

  Returns:
    (number of documents, SHA-256 of the file).

  Raises:
    UserError: as `Corpus.documents`, or if an id is used twice; names both lines.
  """
  done = _Done(folder.parent)
  if not done.digest:
    with (
      show.stage('documents', corpus.inputs['bytes'] / 1e6, 'MB') as advance,
      store.Writer(folder, done.documents) as writer,
      store.open_at(folder.parent / 'ids', _HASH_BYTES * done.documents) as ids,
    ):
      seen = 0
      for document in corpus.documents(done.lines):
        writer.add(document)
        ids.write(hashlib.blake2b(document.id.encode(), digest_size=_HASH_BYTES).digest())
        if writer.documents % chunk == 0:
          store.sync(ids)
          writer.commit()
          done.note(writer.documents, corpus.line)
          advance((corpus.bytes_read - seen) / 1e6)
          seen = corpus.bytes_read
      store.sync(ids)
      writer.commit()
      _require_own_ids(corpus, folder)
      done.note(writer.documents, corpus.line, corpus.sha256())
  return done.documents, done.digest


class _Done:
  """What is committed: so many documents, up to that line; the digest once all are."""

  def __init__(self, scratch: pathlib.Path):
    self._path = scratch / 'documents.json'
    self.documents, self.lines, self.digest = 0, 0, ''
    if self._path.exists():
      self.documents, self.lines, self.digest = json.loads(self._path.read_text())

  def note(self, documents: int, lines: int, digest: str = '') -> None:
    self.documents, self.lines, self.digest = documents, lines, digest
    index_folder.write_json(self._path, [documents, lines, digest])


def _require_own_ids(corpus: corpora.Corpus, folder: pathlib.Path) -> None:
  """Ids whose hashes are equal are compared; all others differ."""
  path = folder.parent / 'ids'
  suspects = _repeated(path)
  if not len(suspects):
    return
  documents = store.Store(folder)
  place_of: dict[str, int] = {}
  for place in np.flatnonzero(np.isin(np.fromfile(path, np.uint64), suspects)).tolist():
    identity = documents.document(place).id
    if identity in place_of:
      first, second = _lines_of(corpus, place_of[identity], place)
      raise UserError(
        f'{corpus.path}, line {second}, field id: {identity!r} is already that of line {first}. '
        'Each document needs its own id.'
      )
    place_of[identity] = place


def _repeated(path: pathlib.Path, at_once: int = _SORTED) -> np.ndarray:
  """The hashes that occur more than once; a part of all is in memory at a time."""
  count = os.path.getsize(path) // _HASH_BYTES
  parts = -(-count // at_once)
  found = []
  for part in range(parts):
    blocks = (
      np.fromfile(path, np.uint64, at_once, offset=_HASH_BYTES * start)
      for start in range(0, count, at_once)
    )
    hashes = np.sort(np.concatenate([block[block % np.uint64(parts) == part] for block in blocks]))
    found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
  return np.concatenate(found)


def _lines_of(corpus: corpora.Corpus, *places: int) -> list[int]:
  """Lines of the documents at `places`, by reading the file once more."""
  again = corpora.Corpus(corpus.path)
  return [again.line for i, _ in enumerate(again.documents()) if i in places]
