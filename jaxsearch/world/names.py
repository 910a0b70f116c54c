"""Names made of syllables: new worlds have new names, spelled with the same few pieces.

Invariant: a name word belongs to one world only, so that no word of a test name occurs in the
training world, and every word is spelled with the same 80 syllables, so that a tokenizer trained
on one world splits the names of another into familiar pieces.
"""

from __future__ import annotations

import random
import re

_CONSONANTS = 'b d f g h j k l m n p r s t v z'
_CLUSTERS = 'bl br ch cl cr dr fl fr gl gr kr pl pr qu sh sk sl sm sn sp st th tr tw'
_ONSETS = f'{_CONSONANTS} {_CLUSTERS}'.split()
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in 'aeiou')


def spelled(text: str, known: set[str]) -> str:
  """`text` with a line break between the syllables of the words in `known`."""
  return re.sub(r'[A-Za-z]+', lambda m: _split(m[0]) if m[0] in known else m[0], text)


class Words:
  """Never gives the same word twice, nor one that is `reserved`."""

  def __init__(self, rng: random.Random, reserved: set[str]):
    self._rng = rng
    self._used = {word.lower() for word in reserved}

  def word(self, syllables: int, ending: str = '') -> str:
    """A fresh capitalised word."""
    while True:
      word = ''.join(self._rng.choices(_SYLLABLES, k=syllables)) + ending
      if word not in self._used:
        self._used.add(word)
        return word.capitalize()


def people(rng: random.Random, words: Words, count: int) -> tuple[list[str], list[str]]:
  """`count` full names, no two alike, and their surnames.

  About three people share a given name and six a surname, so that half a name finds nobody.
  """
  given = [words.word(2) for _ in range(max(4, count // 3))]
  surnames = [words.word(2) for _ in range(max(4, count // 6))]
  names: dict[str, None] = {}
  while len(names) < count:
    names[f'{rng.choice(given)} {rng.choice(surnames)}'] = None
  return list(names), surnames


def places(rng: random.Random, words: Words, count: int, endings: tuple[str, ...]) -> list[str]:
  """`count` one-word names."""
  endings = endings or ('',)
  return [words.word(2, ending) for ending in (rng.choice(endings) for _ in range(count))]


def titled(
  rng: random.Random, words: Words, count: int, *, last: tuple[str, ...], shared: list[str]
) -> list[str]:
  """`count` names of two words, of which about four in ten borrow a word of `shared`."""
  names: dict[str, None] = {}
  while len(names) < count:
    first = rng.choice(shared) if rng.random() < 0.4 else words.word(2)
    names[f'{first} {rng.choice(last)}'] = None
  return list(names)


def _split(word: str) -> str:
  return '\n'.join(re.findall(r'[^aeiouAEIOU]+[aeiou]|.+', word))
