"""The comparison of answers: a table worked by hand, and the odd corners."""

import pytest

from jaxsearch.text import answers


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('The  U.S.', 'us'),
    ('well-known', 'wellknown'),
    ('1,000', '1000'),
    ('A cat, an owl and the theatre', 'cat owl and theatre'),
    ('“Quoted” – dash', '“quoted” – dash'),
    ('The', ''),
    ('!!!', ''),
    ('ÉCOLE', 'école'),
    ('an_apple', 'anapple'),
  ],
)
def test_normalize(text: str, expected: str) -> None:
  assert answers.normalize(text) == expected


# prediction, golds, EM, cover EM, F1
TABLE = [
  ('Barack Obama', ['barack obama!'], 1, 1, 1.0),
  ('Obama', ['Barack Obama'], 0, 0, 2 / 3),  # P 1, R 1/2.
  ('President Barack Obama', ['Barack Obama'], 0, 1, 4 / 5),  # P 2/3, R 1.
  ('Barack Hussein Obama', ['Barack Obama'], 0, 0, 4 / 5),
  ('new new york', ['new york new jersey'], 0, 0, 6 / 7),  # 3 common, 3 and 4 words.
  ('Paris', ['Rome', 'the Paris', 'Paris France'], 1, 1, 1.0),
  ('Rome', ['Paris', 'Berlin'], 0, 0, 0.0),
  ('yes', ['Yes.'], 1, 1, 1.0),
  ('yes it is', ['yes'], 0, 1, 0.0),  # A verdict must match exactly for F1.
  ('no', ['no one'], 0, 0, 0.0),
  ('noanswer', ['no answer'], 0, 0, 0.0),
  ('museum', ['US'], 0, 1, 0.0),  # Cover counts letters.
  ('anything', ['The', '!!!'], 0, 0, 0.0),  # Golds of nothing cover nothing.
  ('The', ['A'], 1, 0, 0.0),  # Both normalise to nothing.
  ('1000', ['1,000'], 1, 1, 1.0),
  ('', ['The'], 0, 0, 0.0),
  (' \n', ['The'], 0, 0, 0.0),
  (None, ['None', 'The'], 0, 0, 0.0),
  ('x', [], 0, 0, 0.0),
]


@pytest.mark.parametrize(('prediction', 'golds', 'em', 'cover', 'f1'), TABLE)
def test_measures(prediction: str | None, golds: list[str], em: int, cover: int, f1: float) -> None:
  assert answers.exact_match(prediction, golds) == em
  assert answers.cover_match(prediction, golds) == cover
  assert answers.f1(prediction, golds) == pytest.approx(f1, abs=1e-12)
