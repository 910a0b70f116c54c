"""The dense part of an index: vectors, then a FAISS index of them, then what it finds of them.

Each stage leaves its result in a file and is passed over when that is there, so a build that was
killed goes on. What the user has already, vectors or a whole FAISS index, is taken as it is, after
a check that it belongs to the corpus and the encoder.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxsearch.retrieval import faiss_index, index_folder
from jaxsearch.retrieval import store as stores
from jaxsearch.retrieval.indexing import embedding, factories, lists, recall, training, whole
from jaxsearch.retrieval.indexing import vectors as vectors_lib
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import UserError

# The largest part of the budget that sorting codes takes.
_SORT_SHARE = 4


@dataclasses.dataclass(frozen=True)
class DenseOptions:
  """How to index vectors.

  Attributes:
    memory: bytes that searching may keep in memory, and building use.
    encoder: what encodes documents, where no vectors are given, and queries; None: said later.
    folder: where the encoder lies, for the retriever.
    embeddings: file or array of the vectors; one that is not there yet is written by the encoder.
      Empty: they are written, and removed when the index is made.
    faiss: an index file that exists already. It is linked.
    factory: of FAISS; empty: as corpus and memory have it.
  """

  memory: int
  encoder: embedding.Encoder | None = None
  folder: str = ''
  embeddings: str = ''
  faiss: str = ''
  factory: str = ''

  @property
  def inputs(self) -> dict[str, Any]:
    """What vectors depend on besides the corpus, as JSON."""
    encoder = self.encoder.identity if self.encoder else None
    return {'encoder': encoder, 'embeddings': _state(self.embeddings)}


def build(
  folder: pathlib.Path, options: DenseOptions, corpus: str, show: Progress
) -> dict[str, Any]:
  """Makes the dense part of the index in `folder`, or what is missing; returns its description.

  Args:
    folder: of the index, with its documents; scratch files lie beside it.
    options: see there.
    corpus: hash of the corpus.
    show: is told what is done.

  Raises:
    UserError: if vectors, encoder, index and corpus do not belong together, or nothing fits into
      the memory.
  """
  store = stores.Store(folder)
  scratch = folder.parent / 'dense'
  for place in (scratch, (folder / faiss_index.FILE).parent):
    place.mkdir(exist_ok=True)
  vectors, encoder = _vectors(scratch, store, options, corpus, show)
  if options.faiss:
    made = _adopt(folder / faiss_index.FILE, scratch, options)
  else:
    made = _make(folder / faiss_index.FILE, scratch, vectors, options, show)
  index = faiss_index.Index(folder / faiss_index.FILE)
  _require_shape(index, options, store)
  if vectors:
    asked, kind = recall.queries(vectors, store, options.encoder)
    right = recall.exact(vectors, asked, show)
    index, found = recall.tune(index, asked, right)
    made['recall'] = {'at': found, 'queries': len(asked), 'of': kind, 'target': recall.TARGET}
  return {
    **made,
    'search': index.settings,
    'dimensions': index.dimensions,
    'encoder': encoder,
    'encoder_folder': os.path.abspath(options.folder) if options.folder else '',
    'bytes': os.path.getsize(folder / faiss_index.FILE),
    'versions': {n: importlib.metadata.version(n) for n in ('faiss-cpu', 'numpy', 'tensorstore')},
  }


def _vectors(
  scratch: pathlib.Path, store: stores.Store, options: DenseOptions, corpus: str, show: Progress
) -> tuple[vectors_lib.Vectors | None, dict[str, Any] | None]:
  """(the vectors, if there are any; the identity of their encoder, if it is known)."""
  encoder, place = options.encoder, options.embeddings
  identity = encoder.identity if encoder else None
  if options.faiss and not place:
    return None, identity
  place = place or str(scratch / 'vectors')
  record = embedding.begun(place)
  if encoder and (record or not vectors_lib.exists(place)):
    return embedding.embed(place, store, encoder, corpus, show), identity
  if record and record['rows'] < record['documents']:
    raise UserError(
      f'{place!r} holds vectors of {record["rows"]:,} of {record["documents"]:,} documents. '
      'Give the --encoder that made them, and the rest is made too.'
    )
  dimensions = encoder.dimensions if encoder else None
  found = vectors_lib.adopt(place, len(store), dimensions)
  return found, identity or (record or {}).get('encoder')


def _make(
  path: pathlib.Path,
  scratch: pathlib.Path,
  vectors: vectors_lib.Vectors,
  options: DenseOptions,
  show: Progress,
) -> dict[str, Any]:
  plan = _plan(vectors, options)
  _begin(scratch, path, {'factory': plan.factory, 'sample': plan.sample, 'vectors': vectors.name})
  if not path.exists():
    trained = training.trained(scratch / 'trained.faiss', plan, vectors, show)
    if lists.suits(trained):
      lists.add(scratch, trained, vectors, show)
      lists.assemble(scratch, trained, path, options.memory // _SORT_SHARE)
    else:
      whole.fill(scratch / 'whole.faiss', trained, vectors, show)
      (scratch / 'whole.faiss').replace(path)
  return {
    'factory': plan.factory,
    'trained_on': plan.sample,
    'resident_bytes': plan.resident,
    'reason': plan.reason,
  }


def _plan(vectors: vectors_lib.Vectors, options: DenseOptions) -> factories.Plan:
  size = (vectors.documents, vectors.dimensions)
  if not options.factory:
    return factories.choose(*size, options.memory)
  plan = factories.described(options.factory, *size, 'as asked for', options.memory)
  if plan.resident > options.memory:
    raise UserError(
      f'--factory={options.factory} keeps {factories.in_words(plan.resident)} of {size[0]:,} '
      f'documents in memory, more than --memory={factories.in_words(options.memory)}. Leave '
      '--factory out, or give more memory.'
    )
  return plan


def _begin(scratch: pathlib.Path, path: pathlib.Path, wanted: Mapping[str, Any]) -> None:
  """Removes what another plan has left; vectors stay, whatever index is made of them."""
  note = scratch / 'plan.json'
  if not note.exists() or json.loads(note.read_text()) != wanted:
    note.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    for other in scratch.iterdir():
      if not other.is_dir():
        other.unlink()
    index_folder.write_json(note, wanted)


def _adopt(path: pathlib.Path, scratch: pathlib.Path, options: DenseOptions) -> dict[str, Any]:
  """Links the user's index file to `path`."""
  source = os.path.abspath(options.faiss)
  if not os.path.isfile(source):
    raise UserError(f'--faiss is {options.faiss!r}; allowed: a FAISS index file.')
  _begin(scratch, path, {'faiss': source})
  path.unlink(missing_ok=True)
  path.symlink_to(source)
  return {'adopted': source, 'recall': None}


def _state(place: str) -> list[Any]:
  """What tells a file, if it is one, from another that may come to lie there."""
  if not os.path.isfile(place):
    return [place]
  found = os.stat(place)
  return [os.path.abspath(place), found.st_size, found.st_mtime_ns]


def _require_shape(index: faiss_index.Index, options: DenseOptions, store: stores.Store) -> None:
  if index.documents != len(store):
    raise UserError(
      f'the index {options.faiss!r} holds {index.documents:,} vectors, but the corpus has '
      f'{len(store):,} documents. Give the corpus that it was made of.'
    )
  if options.encoder and options.encoder.dimensions != index.dimensions:
    raise UserError(
      f'the index {options.faiss!r} has {index.dimensions} dimensions, but the encoder makes '
      f'{options.encoder.dimensions}. Give the --encoder that it was made with.'
    )
