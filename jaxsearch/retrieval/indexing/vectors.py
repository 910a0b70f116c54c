"""The vectors of a corpus, one row a document, wherever they lie and in whatever precision.

Somebody has made them, as a .npy file, as a bare array in a file (what Search-R1 and FlashRAG save)
or as a zarr array; or `embedding.py` writes a zarr array. Rows are read when they are asked for, so
that no more than a block of them is ever in memory.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore

from jaxsearch.types import UserError

_BLOCK_BYTES = 2**26
_TYPES = {2: np.dtype('<f2'), 4: np.dtype('<f4')}


@dataclasses.dataclass(frozen=True)
class Vectors:
  """Rows of an array.

  Attributes:
    documents, dimensions: its shape.
    name: of the place, for errors.
    fetch: rows of a slice or of ascending indices, in any floating-point type.
  """

  documents: int
  dimensions: int
  name: str
  fetch: Callable[[slice | np.ndarray], np.ndarray]

  def rows(self, which: slice | np.ndarray) -> np.ndarray:
    """float32 [rows, dimensions] of a slice, or of indices in ascending order.

    Raises:
      UserError: if one holds what is no number; names the row.
    """
    found = np.ascontiguousarray(self.fetch(which), np.float32)
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
      row = np.arange(self.documents)[which][broken[0]]
      raise UserError(
        f'row {row} of the vectors {self.name!r} is not finite ({len(broken)} of {len(found)} rows '
        'read with it). Encode these documents again, in a precision that holds their values.'
      )
    return found

  def blocks(self, start: int = 0) -> Iterator[np.ndarray]:
    """All rows from `start` on, which is a multiple of `block`, in order, a block at a time."""
    for first in range(start, self.documents, self.block):
      yield self.rows(slice(first, min(first + self.block, self.documents)))

  @property
  def block(self) -> int:
    """Rows that are read at once."""
    return max(1, _BLOCK_BYTES // (4 * self.dimensions))


def adopt(place: str, documents: int, dimensions: int | None) -> Vectors:
  """The vectors in the file or zarr array `place`, as they are.

  Args:
    place: a .npy file, a file of bare float16 or float32 rows, or a zarr array (folder, or an
      address that begins with gs:// or s3://).
    documents: of the corpus, whose order the rows have.
    dimensions: of the encoder; None: unknown, which a bare file does not allow.

  Raises:
    UserError: if they cannot be read or have another shape; names both.
  """
  if '://' in place or os.path.isdir(place):
    array = open_zarr(place)
    found = Vectors(*_two(array.shape, place), place, lambda rows: array[rows].read().result())
  else:
    table = _file(place, documents, dimensions)
    found = Vectors(*_two(table.shape, place), place, lambda rows: table[rows])
  if found.documents != documents:
    raise UserError(
      f'{place!r} has {found.documents:,} vectors, but the corpus has {documents:,} documents. '
      'Row i must be the vector of document i: give the corpus and vectors that belong together.'
    )
  if dimensions not in (None, found.dimensions):
    raise UserError(
      f'the vectors {place!r} have {found.dimensions} dimensions, but the encoder makes '
      f'{dimensions}. Give the --encoder that made them.'
    )
  return found


def exists(place: str) -> bool:
  """Whether there is a file or a zarr array."""
  if '://' not in place and not os.path.isdir(place):
    return os.path.exists(place)
  store = tensorstore.KvStore.open(kvstore(place)).result()
  return store.read('.zarray').result().state == 'value'


def open_zarr(place: str, **make: Any) -> tensorstore.TensorStore:
  """The zarr array in a folder or at an address (gs://, s3://).

  Args:
    place: folder or address.
    **make: what `tensorstore.open` needs besides to make one.

  Raises:
    UserError: if there is none and nothing is to be made.
  """
  try:
    return tensorstore.open({'driver': 'zarr', 'kvstore': kvstore(place)}, **make).result()
  except (ValueError, OSError) as error:
    cause = str(error).splitlines()[0]
    raise UserError(f'{place!r} is no zarr array that can be read: {cause}.') from None


def kvstore(place: str) -> dict[str, Any] | str:
  """A folder or an address as tensorstore names it."""
  if '://' in place:
    return place.rstrip('/') + '/'
  return {'driver': 'file', 'path': os.path.abspath(place) + '/'}


def _file(place: str, documents: int, dimensions: int | None) -> np.ndarray:
  if not os.path.isfile(place):
    raise UserError(f'--embeddings is {place!r}; allowed: a file, a zarr folder or its address.')
  if pathlib.Path(place).suffix == '.npy':
    try:
      table = np.load(place, mmap_mode='r')
    except ValueError as error:
      raise UserError(f'{place!r} is no array that numpy can map: {error}.') from None
    if table.dtype.kind != 'f':
      raise UserError(f'{place!r} holds {table.dtype}; allowed: floating-point numbers.')
    return table
  return _bare(place, documents, dimensions)


def _bare(place: str, documents: int, dimensions: int | None) -> np.ndarray:
  """Rows without any header: what their numbers are follows from the size of the file."""
  size = os.path.getsize(place)
  if dimensions is None:
    raise UserError(
      f'{place!r} is a bare array, which does not say how many dimensions it has. '
      'Give the --encoder that made it, or save it with numpy.save as a .npy file.'
    )
  kinds = {size_of: documents * dimensions * size_of for size_of in _TYPES}
  for item, expected in kinds.items():
    if size == expected:
      return np.memmap(place, _TYPES[item], 'r', shape=(documents, dimensions))
  raise UserError(
    f'{place!r} has {size:,} bytes, but {documents:,} documents of {dimensions} dimensions have '
    f'{kinds[2]:,} in float16 or {kinds[4]:,} in float32. Give the corpus, the --encoder and the '
    'vectors that belong together.'
  )


def _two(shape: tuple[int, ...], place: str) -> tuple[int, int]:
  if len(shape) != 2:
    raise UserError(f'{place!r} has {len(shape)} axes; allowed: two, documents and dimensions.')
  return shape[0], shape[1]
