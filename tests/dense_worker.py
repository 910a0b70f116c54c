"""Builds the dense part of an index in a process that a test may kill: FOLDER FACTORY."""

import json
import pathlib
import sys

from vectors_of_words import WordEncoder

from jaxsearch.retrieval.indexing import dense, vectors
from jaxsearch.retrieval.indexing.progress import Progress

BLOCK_BYTES = 2**15  # Many blocks, though the corpus is small.


def build(folder, factory):
  """What the manifest says of it."""
  options = dense.DenseOptions(2**30, WordEncoder(16), factory=factory)
  return dense.build(pathlib.Path(folder), options, 'hash', Progress())


if __name__ == '__main__':
  vectors._BLOCK_BYTES = BLOCK_BYTES
  made = build(*sys.argv[1:])
  pathlib.Path(sys.argv[1], 'made.json').write_text(json.dumps(made))
