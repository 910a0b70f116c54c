"""Filling an index of lists (IVF) that is larger than memory, in steps that survive a kill.

Each vector becomes its list's number and its code, which are appended to files; at the end they are
sorted by list and written behind the head of the trained index. The file is what FAISS itself would
have written, byte for byte, had it held everything in memory: FAISS maps it, and no step depends on
how often the build was interrupted.
"""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

import faiss
import numpy as np

from jaxsearch.retrieval import index_folder, store
from jaxsearch.retrieval.indexing import training
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.retrieval.indexing.vectors import Vectors

_NUMBERS, _CODES, _FINE, _DONE = 'numbers', 'codes', 'fine', 'added.json'
_NUMBER = np.dtype('<u4')


def suits(index: faiss.Index) -> bool:
  """Whether the trained, empty `index` is one that can be put together from its parts."""
  _, base, fine = _parts(index)
  ivf = faiss.try_extract_index_ivf(base)
  if ivf is None or (fine is not None and not isinstance(fine, faiss.IndexScalarQuantizer)):
    return False
  return _bytes(ivf).endswith(_empty_lists(ivf))


def add(work: pathlib.Path, index: faiss.Index, vectors: Vectors, show: Progress) -> None:
  """Encodes all vectors into files of the folder `work`, or those that are missing.

  Args:
    work: keeps the files between calls.
    index: trained and empty.
    vectors: all of them.
    show: is told the vectors.
  """
  training.use_all_cores()
  _, base, fine = _parts(index)
  ivf = faiss.extract_index_ivf(base)
  done = _done(work)
  with (
    show.stage('codes', vectors.documents, 'vectors', done) as advance,
    store.open_at(work / _NUMBERS, done * _NUMBER.itemsize) as numbers,
    store.open_at(work / _CODES, done * ivf.code_size) as codes,
    store.open_at(work / _FINE, done * (fine.sa_code_size() if fine else 0)) as fines,
  ):
    for block in vectors.blocks(done):
      number, code = _encoded(base, ivf, block)
      numbers.write(number.tobytes())
      codes.write(code.tobytes())
      if fine:
        fines.write(fine.sa_encode(block).tobytes())
      done += len(block)
      for file in (numbers, codes, fines):
        store.sync(file)
      index_folder.write_json(work / _DONE, done)
      advance(len(block))


def assemble(work: pathlib.Path, index: faiss.Index, path: pathlib.Path, memory: int) -> None:
  """Writes the index file `path` from what `add` left in `work`.

  Args:
    work, index: as for `add`.
    path: file to write.
    memory: bytes that the sorting may use, besides twelve for each vector.
  """
  count = _done(work)
  whole, base, fine = _parts(index)
  ivf = faiss.extract_index_ivf(base)
  _set_count(whole, count)
  head, middle, tail = _around(whole, ivf, fine)
  draft = path.with_name(f'{path.name}.partial')
  with draft.open('wb') as file:
    file.write(head)
    _write_lists(file, work, ivf, memory)
    file.write(middle)
    if fine:
      size = count * fine.sa_code_size()
      file.write(struct.pack('<Q', size))
      for part in _pieces(work / _FINE, size):
        file.write(part)
    file.write(tail)
    store.sync(file)
  draft.replace(path)


def _parts(index: faiss.Index) -> tuple[faiss.Index, faiss.Index, faiss.Index | None]:
  """(index, what holds the lists, what scores candidates again)."""
  index = faiss.downcast_index(index)
  if isinstance(index, faiss.IndexRefine):
    base, fine = index.base_index, index.refine_index
    return index, faiss.downcast_index(base), faiss.downcast_index(fine)
  return index, index, None


def _encoded(
  base: faiss.Index, ivf: faiss.IndexIVF, block: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(list of each row, its code): FAISS writes the list's number before the code."""
  record = base.sa_encode(block)
  width = record.shape[1] - ivf.code_size
  number = np.zeros((len(block), _NUMBER.itemsize), np.uint8)
  number[:, :width] = record[:, :width]
  return number.view(_NUMBER)[:, 0], record[:, width:]


def _done(work: pathlib.Path) -> int:
  path = work / _DONE
  return json.loads(path.read_text()) if path.exists() else 0


def _set_count(index: faiss.Index, count: int) -> None:
  """Of vectors, in every header of the file to come."""
  index = faiss.downcast_index(index)
  index.ntotal = count
  for name in ('base_index', 'refine_index', 'index'):
    if hasattr(index, name):
      _set_count(getattr(index, name), count)


def _around(
  whole: faiss.Index, ivf: faiss.IndexIVF, fine: faiss.Index | None
) -> tuple[bytes, bytes, bytes]:
  """The bytes of the index file before the lists, between them and the fine codes, and after."""
  everything, lists = _bytes(whole), _empty_lists(ivf)
  before, same, after = everything.partition(_bytes(ivf))
  assert same.endswith(lists)
  head = before + same[: -len(lists)]
  if fine is None:
    return head, b'', after
  empty = struct.pack('<Q', 0)
  gap, same, tail = after.partition(_bytes(fine))
  assert same.endswith(empty)
  return head, gap + same[: -len(empty)], tail


def _bytes(index: faiss.Index) -> bytes:
  return faiss.serialize_index(index).tobytes()


def _empty_lists(ivf: faiss.IndexIVF) -> bytes:
  """How FAISS ends the file of an index whose lists are arrays, while they are empty."""
  shape = struct.pack('<QQ', ivf.nlist, ivf.code_size)
  return b'ilar' + shape + b'sprs' + struct.pack('<Q', 0)


def _write_lists(file: BinaryIO, work: pathlib.Path, ivf: faiss.IndexIVF, memory: int) -> None:
  """Sizes of all lists, or of those that hold something, if they are few; then codes and ids."""
  numbers = np.fromfile(work / _NUMBERS, _NUMBER)
  sizes = np.bincount(numbers, minlength=ivf.nlist)
  file.write(b'ilar' + struct.pack('<QQ', ivf.nlist, ivf.code_size))
  filled = np.flatnonzero(sizes)
  if len(filled) > ivf.nlist // 2:
    table, kind = sizes, b'full'
  else:
    table, kind = np.stack([filled, sizes[filled]], axis=1).ravel(), b'sprs'
  file.write(kind + struct.pack('<Q', len(table)) + table.astype('<u8').tobytes())
  order = np.argsort(numbers, kind='stable')
  ends = np.cumsum(sizes[filled])
  if not len(order):
    return
  codes = np.memmap(work / _CODES, np.uint8, 'r', shape=(len(numbers), ivf.code_size))
  for first, last in _groups(ends, max(1, memory // ivf.code_size)):
    start = ends[first - 1] if first else 0
    rows = order[start : ends[last - 1]]
    _write_group(file, codes, rows, ends[first:last] - start)


def _groups(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
  """Ranges of lists with at most `most` rows together, or of one list."""
  first = 0
  while first < len(ends):
    start = ends[first - 1] if first else 0
    last = max(first + 1, int(np.searchsorted(ends, start + most, side='right')))
    yield first, last
    first = last


def _write_group(file: BinaryIO, codes: np.ndarray, rows: np.ndarray, ends: np.ndarray) -> None:
  """Lists that follow each other; `codes` is read from its beginning to its end."""
  ascending = np.argsort(rows, kind='stable')
  group = np.empty((len(rows), codes.shape[1]), np.uint8)
  step = max(1, 2**24 // codes.shape[1])
  for first in range(0, len(rows), step):
    some = ascending[first : first + step]
    group[some] = codes[rows[some]]
  start = 0
  for end in ends:
    file.write(group[start:end].data)
    file.write(rows[start:end].astype('<i8').data)
    start = end


def _pieces(path: pathlib.Path, size: int) -> Iterator[bytes]:
  with path.open('rb') as file:
    for first in range(0, size, 2**24):
      yield file.read(min(2**24, size - first))
