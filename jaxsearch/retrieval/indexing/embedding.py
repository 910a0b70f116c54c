"""Encoding a corpus into a zarr array, which a kill at any moment only interrupts.

The array lies in a folder or a bucket. Beside it stands how many rows are safe, and of what; the
same call goes on from there. Numbers are float16: what that loses is a tenth of what one byte a
dimension loses, and halves what the disk has to hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorstore

from jaxsearch.retrieval import store as stores
from jaxsearch.retrieval.indexing import vectors
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import UserError

# Rows of a chunk: an object of the bucket, and what a kill can cost.
_CHUNK = 4096
_RECORD = 'jaxsearch.json'


class Encoder(Protocol):
  """What makes vectors of texts: `encoding.text_encoder.TextEncoder`, or anything alike.

  Attributes:
    dimensions: of its vectors.
    identity: all that its vectors depend on, as JSON.
  """

  dimensions: int
  identity: dict[str, Any]

  def encode(self, texts: Sequence[str], kind: str) -> np.ndarray:
    """float32 [texts, dimensions]; `kind` is 'query' or 'passage'."""
    ...


def embed(
  place: str, store: stores.Store, encoder: Encoder, corpus: str, show: Progress
) -> vectors.Vectors:
  """Writes the vectors of all documents to `place`, or what is missing of them.

  Args:
    place: folder or address (gs://, s3://) of the array.
    store: the documents.
    encoder: what encodes them.
    corpus: hash of the corpus.
    show: is told the documents.

  Raises:
    UserError: if `place` holds the vectors of something else, cannot be written, or the encoder
      makes what float16 cannot hold.
  """
  made = {'documents': len(store), 'corpus': corpus, 'encoder': encoder.identity}
  done = _done(place, made)
  if not done:  # First of all: an array without this note is taken for one that is whole.
    _write_record(place, {**made, 'rows': 0})
  array = vectors.open_zarr(
    place,
    create=True,
    open=True,
    dtype=tensorstore.float16,
    shape=[len(store), encoder.dimensions],
    chunk_layout=tensorstore.ChunkLayout(chunk_shape=[_CHUNK, encoder.dimensions]),
  )
  with show.stage('embeddings', len(store), 'documents', done) as advance:
    for first in range(done, len(store), _CHUNK):
      rows = range(first, min(first + _CHUNK, len(store)))
      array[rows.start : rows.stop].write(_encode(encoder, store, rows)).result()
      _write_record(place, {**made, 'rows': rows.stop})
      advance(len(rows))
  return vectors.adopt(place, len(store), encoder.dimensions)


def begun(place: str) -> dict[str, Any] | None:
  """What `embed` noted beside the array: rows, documents, corpus, encoder; None: nothing."""
  if '://' not in place and not os.path.isdir(place):
    return None
  found = _store(place).read(_RECORD).result()
  return json.loads(found.value) if found.state == 'value' else None


def _encode(encoder: Encoder, store: stores.Store, rows: range) -> np.ndarray:
  found = encoder.encode([stores.whole(store.document(row)) for row in rows], 'passage')
  if found.shape != (len(rows), encoder.dimensions):
    raise ValueError(f'{found.shape} vectors of {len(rows)} texts and {encoder.dimensions}')
  with np.errstate(over='ignore'):
    small = found.astype(np.float16)
  broken = np.flatnonzero(~np.isfinite(small).all(axis=1))
  if len(broken):
    raise UserError(
      f'the encoder made a vector of document {store.document(rows[broken[0]]).id!r} that float16 '
      f'cannot hold (row {rows[broken[0]]}; largest number {np.abs(found[broken[0]]).max()}). '
      'Is it an encoder of texts, in a precision that holds its values?'
    )
  return small


def _done(place: str, made: Mapping[str, Any]) -> int:
  """Rows that are there already."""
  record = begun(place)
  if record is None:
    return 0
  rows = record.pop('rows')
  for name, wanted in json.loads(json.dumps(made)).items():
    if record[name] != wanted:
      raise UserError(
        f'{place!r} holds vectors of another {name}: {record[name]!r} instead of {wanted!r}. '
        'Remove them, or choose another place with --embeddings.'
      )
  return rows


def _store(place: str) -> tensorstore.KvStore:
  return tensorstore.KvStore.open(vectors.kvstore(place)).result()


def _write_record(place: str, record: Mapping[str, Any]) -> None:
  _store(place).write(_RECORD, json.dumps(record).encode()).result()
