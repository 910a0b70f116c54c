"""From text to words, and the BM25 library: what making and searching an index must share."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
import types as pytypes
import unicodedata
from collections.abc import Callable

from jaxsearch.types import UserError

FILES = 'bm25'  # Folder of the library's files within that of an index.
_STEMS = 1 << 18  # That are remembered: 40 MB.
_WORD = re.compile(r'[^\W_]+')
# Lucene's English stop words: a query made of them alone finds nothing instead of anything.
_STOP_WORDS = frozenset(
  _WORD.findall(
    'a an and are as at be but by for if in into is it no not of on or such that the their then '
    'there these they this to was will with'
  )
)


def word_function(stemmer: str) -> Callable[[str], list[str]]:
  """From text to words: NFKC, lower case, letters and digits, no stop words, stemmed.

  Args:
    stemmer: Snowball language, or '' for none; 'english' has stop words.

  Raises:
    UserError: if there is no such stemmer.
  """
  stem = _stem_function(stemmer)
  stop_words = _STOP_WORDS if stemmer == 'english' else frozenset()

  def words_of(text: str) -> list[str]:
    words = _WORD.findall(unicodedata.normalize('NFKC', text).lower())
    return stem([word for word in words if word not in stop_words])

  return words_of


def versions(stemmer: str) -> dict[str, str]:
  """Of the packages that decide which words there are and how they are stored."""
  packages = ('bm25s', 'PyStemmer') if stemmer else ('bm25s',)
  return {name: importlib.metadata.version(name) for name in packages}


def library() -> pytypes.ModuleType:
  """bm25s, imported without its optional accelerators.

  Where JAX is installed, importing bm25s runs a JAX operation, which starts a JAX backend and
  may take the accelerator away from the trainer. SciPy and numba would only make workers start
  more slowly: the index is built and searched with numpy.
  """
  if 'bm25s' in sys.modules:
    return sys.modules['bm25s']
  hidden = ('jax', 'scipy', 'numba')
  before = {name: sys.modules[name] for name in hidden if name in sys.modules}
  sys.modules.update(dict.fromkeys(hidden))
  try:
    return importlib.import_module('bm25s')
  finally:
    for name in hidden:
      del sys.modules[name]
    sys.modules.update(before)


def _stem_function(language: str) -> Callable[[list[str]], list[str]]:
  if not language:
    return list
  try:
    stemmers = importlib.import_module('Stemmer')
  except ImportError:
    raise UserError(
      f'The stemmer {language!r} needs PyStemmer. Install it with `pip install PyStemmer`.'
    ) from None
  if language not in stemmers.algorithms():
    raise UserError(
      f'No stemmer is called {language!r}. Choices: {", ".join(stemmers.algorithms())}.'
    )
  known = _Stems(stemmers.Stemmer(language, 0).stemWord)
  return lambda words: list(map(known.__getitem__, words))


class _Stems(dict):
  """Word -> stem, remembered: asking the stemmer takes ten times as long."""

  def __init__(self, stem: Callable[[str], str]):
    super().__init__()
    self._stem = stem

  def __missing__(self, word: str) -> str:
    if len(self) >= _STEMS:
      self.clear()
    self[word] = stem = self._stem(word)
    return stem
