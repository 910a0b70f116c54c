"""What the retrieval benchmarks search: vectors that cluster, and pages of the synthetic world."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Iterator

import numpy as np

from jaxsearch.world import articles, graph, names

# A mixture in a few dimensions, turned into many, with noise in all of them. Each block of rows
# has its own random numbers, so fewer documents are the beginning of more.
_CENTRES, _LATENT, _BLOCK = 10_000, 64, 8192
_WITHIN, _NOISE = 0.6, 0.3
# A world has names for so many pages; more of them make more pages.
_PAGES = 8000
_SURNAMES = 96


def write_vectors(
  path: pathlib.Path, documents: int, dimensions: int, centres: int = _CENTRES
) -> None:
  """A .npy file of float16 [documents, dimensions], each of length 1, about so many centres."""
  if path.exists():
    return
  table = np.lib.format.open_memmap(
    path.with_suffix('.partial'), 'w+', np.float16, (documents, dimensions)
  )
  for first in range(0, documents, _BLOCK):
    block = _vectors(first // _BLOCK, dimensions, centres)[: documents - first]
    table[first : first + len(block)] = block
  table.flush()
  path.with_suffix('.partial').rename(path)


def write_corpus(path: pathlib.Path, documents: int) -> None:
  """JSON lines of so many pages, of as many worlds as that takes."""
  if path.exists():
    return
  with path.with_suffix('.partial').open('w', encoding='utf-8') as file:
    for page in pages(documents):
      file.write(json.dumps(page, ensure_ascii=False) + '\n')
  path.with_suffix('.partial').rename(path)


def pages(documents: int) -> Iterator[dict[str, str]]:
  """Corpus lines, {'id', 'contents'}."""
  for number in range(-(-documents // _PAGES)):
    rng = random.Random(f'benchmark {number}')
    namer = names.Namer(rng, articles.words(), _SURNAMES)
    world = graph.make(rng, namer, prefix=f'w{number}', documents=_PAGES)
    yield from articles.write(rng, world)[: documents - number * _PAGES]


def _vectors(block: int, dimensions: int, count: int) -> np.ndarray:
  shared, own = np.random.default_rng(0), np.random.default_rng((1, block))
  centres = shared.normal(size=(count, _LATENT)).astype(np.float32)
  turn = np.random.default_rng(2).normal(size=(_LATENT, dimensions)).astype(np.float32) / np.sqrt(
    _LATENT
  )
  latent = centres[own.integers(count, size=_BLOCK)]
  latent += _WITHIN * own.normal(size=latent.shape).astype(np.float32)
  found = latent @ turn
  found += _NOISE * own.normal(size=found.shape).astype(np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)
