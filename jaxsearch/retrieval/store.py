"""The documents of an index, read where they lie.

One file of UTF-8 and one of offsets into it, three to a document: id, title and text. Both are
mapped into memory, so that opening takes the same time for any size and the processes of a host
share one copy. They are written as streams, in the same memory for any size.
"""

from __future__ import annotations

import array
import mmap
import os
import pathlib
from typing import BinaryIO

import numpy as np

from jaxsearch.types import Document, UserError

_TEXTS = 'documents.utf8'
_OFFSETS = 'documents.offsets'
_OFFSET = np.dtype('<i8')


class Store:
  """The documents that a `Writer` left in a folder."""

  def __init__(self, folder: str | pathlib.Path):
    """Raises UserError if the folder holds no documents, or only a part of their texts."""
    folder = pathlib.Path(folder)
    try:
      self._offsets = np.memmap(folder / _OFFSETS, _OFFSET, 'r')
      with (folder / _TEXTS).open('rb') as file:
        self._texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
      raise UserError(
        f'The index {str(folder)!r} has no documents: {error}. Make it anew.'
      ) from None
    if len(self._offsets) % 3 != 1 or self._offsets[-1] != len(self._texts):
      raise UserError(
        f'The index {str(folder)!r} is damaged: its texts have {len(self._texts)} bytes instead of '
        f'{self._offsets[-1]}. Copy it again, or make it anew.'
      )

  def __len__(self) -> int:
    return len(self._offsets) // 3

  def document(self, index: int, score: float = 0.0) -> Document:
    """The document at `index` in corpus order."""
    bounds = self._offsets[3 * index : 3 * index + 4].tolist()
    parts = [self._texts[a:b].decode() for a, b in zip(bounds[:-1], bounds[1:])]
    return Document(*parts, score=score)


def whole(document: Document) -> str:
  """A document as one text: its title, a line break, its text."""
  return f'{document.title}\n{document.text}'.strip()


class Writer:
  """Appends documents to the files of a store.

  Attributes:
    documents: how many were added, from the very first on.
  """

  def __init__(self, folder: pathlib.Path, documents: int = 0):
    """Keeps the first `documents` of the store, which must be there; the rest is cut off."""
    self.documents = documents
    size = _OFFSET.itemsize
    self._offsets = open_at(folder / _OFFSETS, size * (3 * documents + 1) if documents else 0)
    if documents:
      self._offsets.seek(-size, os.SEEK_END)
      self._end = int.from_bytes(self._offsets.read(size), 'little')
    else:
      self._end = 0
      self._offsets.write(bytes(size))
    self._texts = open_at(folder / _TEXTS, self._end)
    self._ends = array.array('q')

  def __enter__(self) -> Writer:
    return self

  def __exit__(self, *error: object) -> None:
    self._texts.close()
    self._offsets.close()

  def add(self, document: Document) -> None:
    """Appends a document, without its score; it is safe after the next `commit`."""
    for part in (document.id, document.title, document.text):
      self._end += self._texts.write(part.encode())
      self._ends.append(self._end)
    self.documents += 1

  def commit(self) -> None:
    """Brings all documents to the disk, so that a later writer can keep them."""
    self._offsets.write(np.asarray(self._ends, _OFFSET).tobytes())
    self._ends = array.array('q')
    for file in (self._texts, self._offsets):
      sync(file)


def open_at(path: pathlib.Path, size: int) -> BinaryIO:
  """Opens a file for reading and appending, cut off after `size` bytes, which it must have."""
  file = path.open('a+b')
  held = file.seek(0, os.SEEK_END)
  if held < size:
    file.close()
    raise UserError(f'{path} has {held} bytes instead of {size} or more. Remove its folder.')
  file.truncate(size)
  return file


def sync(file: BinaryIO) -> None:
  """Brings what was written to the disk."""
  file.flush()
  os.fsync(file.fileno())
