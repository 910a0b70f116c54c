"""An encoder for tests: a text is the sum of random vectors of its words, the same everywhere."""

import functools
import hashlib

import numpy as np


class WordEncoder:
  """Texts that share words lie near each other. Queries and passages differ by a prefix."""

  def __init__(self, dimensions=32, name='words'):
    self.dimensions = dimensions
    self.identity = {'name': name, 'sha256': 'none', 'pooling': 'sum', 'dimensions': dimensions}

  def encode(self, texts, kind):
    """float32 [texts, dimensions], of length 1."""
    found = np.stack([self._vector(f'{kind}: {text}') for text in texts])
    return found / np.linalg.norm(found, axis=1, keepdims=True)

  def _vector(self, text):
    return sum(_word(word, self.dimensions) for word in text.lower().split())


@functools.cache
def _word(word, dimensions):
  seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], 'little')
  return np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
