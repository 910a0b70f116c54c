"""How a short answer is compared with the accepted ones.

The normaliser is SQuAD's, as ReSearch, Search-R1 and FlashRAG use it: lower case, ASCII
punctuation deleted (so 'U.S.' is 'us' and '1,000' is '1000'), the words a, an and the dropped,
spaces collapsed. Other dashes and quotation marks than ASCII's stay. Every measure is the best
over the accepted answers; a prediction that is None or blank is no answer and scores 0.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Sequence

_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_VERDICTS = frozenset({'yes', 'no', 'noanswer'})


def normalize(text: str) -> str:
  """Lower case, without ASCII punctuation, articles and superfluous spaces."""
  bare = text.lower().translate(_NO_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', bare).split())


def exact_match(prediction: str | None, golds: Sequence[str]) -> float:
  """1 if the prediction and an accepted answer are the same when normalised, else 0."""
  if _is_blank(prediction):
    return 0.0
  return float(normalize(prediction) in {normalize(gold) for gold in golds})


def cover_match(prediction: str | None, golds: Sequence[str]) -> float:
  """1 if an accepted answer is a substring of the prediction, both normalised, else 0.

  Letters count, not words, as in FlashRAG: 'us' is found in 'museum'. An accepted answer of
  which normalising leaves nothing ('The') covers nothing.
  """
  if _is_blank(prediction):
    return 0.0
  said = normalize(prediction)
  return float(any(gold and gold in said for gold in map(normalize, golds)))


def bag_match(prediction: str | None, golds: Sequence[str]) -> float:
  """1 if every word of an accepted answer is in the prediction, in any order, else 0.

  R1-Searcher's cover EM. By hand: 'Obama, Barack' has both words of 'Barack Obama'.
  """
  if _is_blank(prediction):
    return 0.0
  said = set(normalize(prediction).split())
  return float(any(words and words <= said for words in (set(normalize(g).split()) for g in golds)))


def f1(prediction: str | None, golds: Sequence[str]) -> float:
  """Best F1 of the words, counted with repetition; yes, no and noanswer must match exactly."""
  if _is_blank(prediction):
    return 0.0
  said = normalize(prediction)
  return max((_word_f1(said, normalize(gold)) for gold in golds), default=0.0)


def _word_f1(said: str, gold: str) -> float:
  if said != gold and (said in _VERDICTS or gold in _VERDICTS):
    return 0.0
  said_words, gold_words = said.split(), gold.split()
  common = (collections.Counter(said_words) & collections.Counter(gold_words)).total()
  return 2 * common / (len(said_words) + len(gold_words)) if common else 0.0


def _is_blank(prediction: str | None) -> bool:
  return prediction is None or not prediction.strip()
