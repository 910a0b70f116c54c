"""Corpus files, read as a stream.

A corpus is JSON lines: `{"id", "contents"}`, the first line of `contents` being the title, or
`{"id", "title", "text"}`. It may be compressed: .gz, .bz2, .xz or .zst.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from jaxsearch.types import Document, UserError

# A longer text is no passage, and the pool takes it for a retriever that floods its caller.
MAX_CHARACTERS = 200_000
_MAX_LINE_BYTES = 1 << 24  # More than two fields of that length, every character escaped.
_BUFFER_BYTES = 1 << 20


class Corpus:
  """A corpus file, read once from beginning to end.

  Attributes:
    path: as it was given.
    inputs: what tells whether the file is still the same: place, size and time of change.
    bytes_read: of the file as it lies on disk.
    line: number of the line that was read last, from 1.
  """

  def __init__(self, path: str | pathlib.Path):
    """Raises UserError if there is no such file."""
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise UserError(
        f'The corpus {str(path)!r} is not a file. Give a file of JSON lines with id and contents.'
      )
    self.inputs = self._inputs()
    self.bytes_read = 0
    self.line = 0
    self._digest = hashlib.sha256()

  def documents(self, start_line: int = 0) -> Iterator[Document]:
    """The documents behind line `start_line`, in order; what is before them is read as well.

    Raises:
      UserError: if the file is empty, a line or the compression is broken, or the file changes
        meanwhile; names file, line and field.
    """
    empty = not start_line
    for line in self._lines():
      if self.line > start_line and line.strip():
        empty = False
        yield _parse(line, f'{self.path}, line {self.line}')
    if empty:
      raise UserError(f'The corpus {str(self.path)!r} is empty. It needs at least a line of JSON.')
    if self._inputs() != self.inputs:
      raise UserError(f'The corpus {str(self.path)!r} changed while it was read. Start again.')

  def sha256(self) -> str:
    """Of the whole file as it lies on disk; to be asked when all documents were read."""
    return self._digest.hexdigest()

  def _inputs(self) -> dict[str, str | int]:
    found = self.path.stat()
    path = os.path.abspath(self.path)
    return {'file': path, 'bytes': found.st_size, 'modified_ns': found.st_mtime_ns}

  def _lines(self) -> Iterator[bytes]:
    """Split at line feeds only: other line breaks of Unicode may stand inside a JSON string."""
    with self.path.open('rb', buffering=0) as file:
      raw = io.BufferedReader(_Tapped(file, self._note), _BUFFER_BYTES)
      lines = _decompressed(raw, self.path.suffix)
      while line := self._line(lines):
        self.line += 1
        yield line
      while raw.read(_BUFFER_BYTES):  # What follows the compressed data counts for the digest.
        pass

  def _line(self, lines: BinaryIO) -> bytes:
    where = f'{self.path}, line {self.line + 1}'
    try:
      line = lines.readline(_MAX_LINE_BYTES)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
      raise UserError(
        f'{where}: the file cannot be read on; it is cut off or broken ({error}). Fetch it again.'
      ) from None
    if len(line) == _MAX_LINE_BYTES:
      raise UserError(
        f'{where}: longer than {_MAX_LINE_BYTES} bytes. A corpus is JSON lines, one document each.'
      )
    return line

  def _note(self, data: memoryview) -> None:
    self.bytes_read += len(data)
    self._digest.update(data)


class _Tapped(io.RawIOBase):
  """A file whose bytes are shown to a function as they are read."""

  def __init__(self, file: io.RawIOBase, note: Any):
    self._file, self._note = file, note

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    count = self._file.readinto(buffer) or 0
    self._note(memoryview(buffer)[:count])
    return count


class _Zstandard(io.RawIOBase):
  """Frames one after the other; one that is cut off is an error, where the library says nothing."""

  def __init__(self, file: BinaryIO):
    import zstandard  # Few corpora need it.

    self._file, self._library = file, zstandard
    self._frame: Any = None
    self._data = b''

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    while not self._data:
      packed = b''
      if self._frame is None or self._frame.eof:
        packed = self._frame.unused_data if self._frame else b''
        self._frame = None
      packed = packed or self._file.read(1 << 16)
      if not packed and self._frame:
        raise EOFError('a frame does not end')
      if not packed:
        return 0
      self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
      try:
        self._data = self._frame.decompress(packed)
      except self._library.ZstdError as error:
        raise OSError(str(error)) from None
    count = min(len(buffer), len(self._data))
    buffer[:count] = self._data[:count]
    self._data = self._data[count:]
    return count


def _decompressed(file: BinaryIO, suffix: str) -> BinaryIO:
  make = {
    '.gz': lambda: gzip.GzipFile(fileobj=file),
    '.bz2': lambda: bz2.BZ2File(file),
    '.xz': lambda: lzma.LZMAFile(file),  # noqa: SIM115 (closed with the file below it)
    '.zst': lambda: _Zstandard(file),
  }.get(suffix.lower())
  return io.BufferedReader(make(), _BUFFER_BYTES) if make else file


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


def split(contents: str) -> tuple[str, str]:
  """(title, text): the title is the first line, if there are more."""
  first, newline, rest = contents.partition('\n')
  title, text = (first, rest) if newline else ('', first)
  # Search-R1's dump of Wikipedia puts its titles between double quotes.
  if len(title) > 2 and title[0] == title[-1] == '"':
    title = title[1:-1]
  return title.strip(), text.strip()


def _title_and_text(record: dict[str, Any], where: str) -> tuple[str, str]:
  if 'contents' in record:
    title, text = split(_text_field(record, 'contents', where))
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
