"""Dense vectors: a FAISS index, mapped, asked for the nearest documents of each query's vector.

The vectors come with the requests: the pool opens the text encoder with `open_encoder`, in another
process, and fills `SearchRequest.embeddings`. The index is made by `retrieval/indexing/`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval import faiss_index, index_folder, store
from jaxsearch.types import Outcome, SearchRequest, SearchResult, UserError


class Dense:
  """An opened index; its processes share one copy.

  Attributes:
    identity: of the index and of how it is searched.
  """

  def __init__(self, settings: config.Retrieval):
    folder = settings.index
    info, part = index_folder.read_part(folder, 'dense')
    self._store = store.Store(folder)
    self._index = faiss_index.Index(_file(folder, part['bytes']), part['search'])
    if settings.probes:
      visited = {'nprobe', 'efSearch'} & self._index.settings.keys()
      self._index = self._index.searching(dict.fromkeys(visited, settings.probes))
    found = (self._index.documents, self._index.dimensions, len(self._store))
    if found != (info['documents'], part['dimensions'], info['documents']):
      raise UserError(
        f'the index {folder!r} is damaged: it holds {found[0]:,} vectors of {found[1]} dimensions '
        f'and {found[2]:,} documents, but should hold {info["documents"]:,} of '
        f'{part["dimensions"]}. Make it anew.'
      )
    self.identity = f'dense {info["build"]} {json.dumps(self._index.settings, sort_keys=True)}'

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """The nearest documents of each query, by inner product.

    A request whose vectors are missing, of another shape or not finite is an error: that is not
    the policy's fault.
    """
    wrong = [self._problem(request) for request in requests]
    fine = [request for request, problem in zip(requests, wrong, strict=True) if not problem]
    found = iter(self._found(fine))
    return [
      SearchResult(Outcome.ERROR, message=problem) if problem else next(found) for problem in wrong
    ]

  def _problem(self, request: SearchRequest) -> str:
    shape = (len(request.queries), self._index.dimensions)
    if request.embeddings is None:
      return 'the queries came without vectors: no encoder was asked'
    if request.embeddings.shape != shape:
      return f'vectors of shape {request.embeddings.shape} for queries of shape {shape}'
    if not np.isfinite(request.embeddings).all():
      return 'the vector of a query is not finite'
    return ''

  def _found(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Those that want equally many documents are asked for together: the number decides how many
    candidates are looked at, so it must be a request's own."""
    hits: dict[int, list[faiss_index.Hits]] = {}
    for top_k in {request.top_k for request in requests}:
      places = [place for place, request in enumerate(requests) if request.top_k == top_k]
      vectors = np.concatenate([requests[place].embeddings for place in places])
      found = iter(self._index.search(vectors, top_k))
      hits |= {place: [next(found) for _ in requests[place].queries] for place in places}
    return [self._result(hits[place]) for place in range(len(requests))]

  def _result(self, hits: Sequence[faiss_index.Hits]) -> SearchResult:
    documents = tuple(tuple(self._store.document(*hit) for hit in found) for found in hits)
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)


class Queries:
  """An encoder as the pool asks it: queries only.

  Attributes:
    identity: of the encoder.
  """

  def __init__(self, encode: Callable[[Sequence[str], str], np.ndarray], identity: str):
    self.identity = identity
    self._encode = encode

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, dimensions]."""
    return self._encode(texts, 'query')


def open(config: config.Retrieval) -> Dense:
  """Opens the dense part of the index `config.index`.

  Raises:
    UserError: if there is none, or it does not belong to the documents beside it.
  """
  return Dense(config)


def open_encoder(config: config.Retrieval) -> Queries:
  """Opens what makes vectors of queries as those of the documents were made.

  Raises:
    UserError: if no encoder is known, or it is another one than that of the documents.
  """
  _, part = index_folder.read_part(config.index, 'dense')
  folder = config.encoder or part['encoder_folder']
  if not folder:
    raise UserError(
      f'the index {config.index!r} does not name the encoder of its vectors. Give its Hugging Face '
      'folder as retrieval.encoder.'
    )
  # JAX and the encoder, a layer above, enter a process of their own and no other.
  from jaxsearch.encoding import text_encoder

  try:
    encoder = text_encoder.open(folder, config.encoder_dtype)
  except UserError as error:
    named = 'retrieval.encoder' if config.encoder else f'The encoder that {config.index!r} names'
    raise UserError(f'{named}: {error} Another place is given by retrieval.encoder.') from None
  _require_same(encoder.identity, encoder.dimensions, part, folder)
  encoder.warm_up()  # Before the first search waits for it.
  return Queries(encoder.encode, f'{encoder.identity["sha256"]} {config.encoder_dtype}')


def _file(folder: str, size: int) -> pathlib.Path:
  """The index file, or what a link to somebody's index leads to."""
  path = pathlib.Path(folder, faiss_index.FILE)
  found = path.stat().st_size if path.is_file() else 0
  if found != size:
    raise UserError(
      f'{str(path)!r} has {found:,} bytes instead of {size:,}. Copy the index again, or bring back '
      'the file that it links to.'
    )
  return path


def _require_same(
  identity: Mapping[str, Any], dimensions: int, part: Mapping[str, Any], folder: str
) -> None:
  made = {**(part['encoder'] or {}), 'dimensions': part['dimensions']}
  ours = {**identity, 'dimensions': dimensions}
  # The name is the folder's, which may have moved.
  names = [n for n in made if n != 'name' and made[n] != ours.get(n)]
  if names:
    differences = '; '.join(f'{n}: {ours.get(n)!r} instead of {made[n]!r}' for n in names)
    raise UserError(
      f'the encoder {folder!r} is not the one that the documents were encoded with: {differences}. '
      'Give that one as retrieval.encoder, or make the index anew with this one.'
    )
