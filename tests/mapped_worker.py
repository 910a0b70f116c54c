"""Opens and searches a dense index, then tells how its memory grew: FOLDER DIMENSIONS.

A line on standard input asks for each of the two; it ends with the input.
"""

import pathlib
import sys

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval.backends import dense
from jaxsearch.types import SearchRequest


def _bytes(kind):
  """Of this process: 'Pss' counts a page that n processes share as 1/n."""
  lines = pathlib.Path('/proc/self/smaps_rollup').read_text().splitlines()
  return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f'{kind}:'))


def main(folder, dimensions):
  """See above."""
  before = _bytes('Pss'), _bytes('Anonymous')
  backend = dense.open(config.Retrieval(index=folder, probes=1 << 20))  # All lists.
  vectors = np.random.default_rng(0).normal(size=(4, int(dimensions))).astype(np.float32)
  backend.search([SearchRequest('', 0, 0, ('q',) * 4, 3, '', 0.0, 0, vectors)])
  print('searched', flush=True)
  for _ in sys.stdin:
    print(_bytes('Pss') - before[0], _bytes('Anonymous') - before[1], flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
