"""Names of two words: the words are the same in every world of a seed, the names never are.

So it is with people and companies at large: the words of a new name are known, which of them stand
together is not. A name that has been seen helps nobody, half a name finds the pages of many others,
and a policy that meets a new name has to copy it.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from jaxsearch.types import UserError

_CONSONANTS = 'b d f g h j k l m n p r s t v z'
_CLUSTERS = 'bl br ch cl cr dr fl fr gl gr kr pl pr qu sh sk sl sm sn sp st th tr tw'
_ONSETS = f'{_CONSONANTS} {_CLUSTERS}'.split()
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in 'aeiou')
_FIRST_WORDS = 192  # Few enough to be tokens, so that a name is two.
_TRIES = 1000


class Namer:
  """Gives names that it has not given before, of words of two syllables that are not `reserved`.

  Attributes:
    first_words: given names of people and first words of everything else.
    surnames: last words of people.
  """

  def __init__(self, rng: random.Random, reserved: Collection[str], surnames: int):
    self._rng = rng
    self._given: set[str] = set()
    found: dict[str, None] = {}
    while len(found) < _FIRST_WORDS + surnames:
      word = ''.join(rng.choices(_SYLLABLES, k=2))
      if word not in reserved:
        found[word.capitalize()] = None
    words = tuple(found)
    self.first_words, self.surnames = words[:_FIRST_WORDS], words[_FIRST_WORDS:]

  def name(self, last_words: tuple[str, ...]) -> str:
    """A new name: a first word and one of `last_words`, or, without those, a surname.

    Raises:
      UserError: if next to none are left.
    """
    for _ in range(_TRIES):
      first = self._rng.choice(self.first_words)
      last = self._rng.choice(last_words or self.surnames)
      name = f'{first} {last}'
      if name not in self._given:
        self._given.add(name)
        return name
    raise UserError(
      f'no names on {"/".join(last_words) or "two words"} are left. Ask for fewer documents.'
    )
