"""Corpus files and the document store that an index keeps.

A corpus is JSON lines: `{"id", "contents"}`, the first line of `contents` being the title, or
`{"id", "title", "text"}`. The store is one blob of UTF-8 and one table of offsets, both mapped
into memory: opening takes the same time for any size, and the processes of a host share one
copy.
"""

from __future__ import annotations

import json
import mmap
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxsearch.types import Document, UserError

# A longer text is no passage, and the pool takes it for a retriever that floods its caller.
MAX_CHARACTERS = 200_000
_BLOB = 'documents.utf8'
_OFFSETS = 'documents.offsets.npy'


def read(path: str | pathlib.Path) -> Iterator[Document]:
  """Documents of a corpus file, in order.

  Raises:
    UserError: if the file is missing or empty, or a line is broken; names file, line and field.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'The corpus {str(path)!r} is not a file. Give a file of JSON lines with id and contents.'
    )
  seen = set()
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      document = _parse(line, f'{path}, line {number}')
      if document.id in seen:
        raise UserError(
          f'{path}, line {number}, field id: {document.id!r} was used before. '
          'Each document needs its own id.'
        )
      seen.add(document.id)
      yield document
  if not seen:
    raise UserError(f'The corpus {str(path)!r} is empty. It needs at least one line of JSON.')


def write_store(documents: Iterable[Document], folder: pathlib.Path) -> int:
  """Writes the documents, without scores, into `folder`; returns how many there were."""
  offsets = [0]
  with (folder / _BLOB).open('wb') as blob:
    for document in documents:
      for part in (document.id, document.title, document.text):
        offsets.append(offsets[-1] + blob.write(part.encode()))
  np.save(folder / _OFFSETS, np.asarray(offsets, np.int64))
  return len(offsets) // 3


class Store:
  """The documents that `write_store` left in a folder, read where they lie."""

  def __init__(self, folder: str | pathlib.Path):
    folder = pathlib.Path(folder)
    self._offsets = np.load(folder / _OFFSETS, mmap_mode='r')
    with (folder / _BLOB).open('rb') as blob:
      self._blob = mmap.mmap(blob.fileno(), 0, access=mmap.ACCESS_READ)

  def __len__(self) -> int:
    return len(self._offsets) // 3

  def document(self, index: int, score: float = 0.0) -> Document:
    """The document at `index` in corpus order."""
    bounds = self._offsets[3 * index : 3 * index + 4].tolist()
    parts = [self._blob[a:b].decode() for a, b in zip(bounds[:-1], bounds[1:])]
    return Document(*parts, score=score)


def _parse(line: bytes, where: str) -> Document:
  try:
    record = json.loads(line)
  except ValueError as error:
    raise UserError(f'{where}: not JSON ({error}). Mend or remove the line.') from None
  if not isinstance(record, dict):
    raise UserError(f'{where}: {type(record).__name__} instead of an object with id and contents.')
  identity = record.get('id')
  if isinstance(identity, int) and not isinstance(identity, bool):
    identity = str(identity)  # Exports of numbered passages often drop the quotes.
  if not isinstance(identity, str) or not identity:
    raise UserError(f'{where}, field id: {identity!r} instead of a text that is not empty.')
  title, text = _title_and_text(record, where)
  for part in (identity, title, text):
    try:
      part.encode()
    except UnicodeEncodeError:
      raise UserError(f'{where}: {part[:40]!r} holds half a surrogate pair.') from None
  return Document(identity, title, text)


def _title_and_text(record: dict[str, Any], where: str) -> tuple[str, str]:
  if 'contents' in record:
    contents = _text_field(record, 'contents', where)
    first, newline, rest = contents.partition('\n')
    title, text = (first, rest) if newline else ('', first)
    # Search-R1's dump of Wikipedia puts its titles between double quotes.
    if len(title) > 2 and title[0] == title[-1] == '"':
      title = title[1:-1]
  elif 'text' in record:
    title, text = (_text_field(record, f, where) if f in record else '' for f in ('title', 'text'))
  else:
    raise UserError(
      f'{where}, field contents: missing. A document has id and contents, or id, title and text; '
      f'this one has {", ".join(sorted(record)) or "nothing"}.'
    )
  if not (title + text).strip():
    raise UserError(f'{where}, field contents: empty. Remove the line.')
  return title.strip(), text.strip()


def _text_field(record: dict[str, Any], field: str, where: str) -> str:
  value = record[field]
  if not isinstance(value, str):
    raise UserError(f'{where}, field {field}: {type(value).__name__} instead of a text.')
  if len(value) > MAX_CHARACTERS:
    raise UserError(
      f'{where}, field {field}: {len(value)} characters, more than {MAX_CHARACTERS}. '
      'Split the document into passages.'
    )
  return value
