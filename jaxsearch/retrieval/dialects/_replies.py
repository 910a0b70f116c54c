"""What clients read out of a reply: rows of any of the known shapes become documents.

Servers differ in what a row is: `{document, score}` or the bare document; `contents`, whose first
line is the title (between double quotes in Search-R1's dump of Wikipedia), or `title` and `text`,
or a text alone. Some send no id, some no score.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from jaxsearch.retrieval import corpus
from jaxsearch.types import Document


class Malformed(ValueError):
  """A reply that is none; the message begins with a word for its kind, then a colon."""


@dataclasses.dataclass(frozen=True)
class Reply:
  """What was found.

  Attributes:
    documents: per query, best first, at most `top_k`.
    lacks_scores: the dialect has scores and none was sent.
  """

  documents: tuple[tuple[Document, ...], ...]
  lacks_scores: bool = False


def field(reply: Any, name: str) -> Any:
  """The value of a field that the reply must have."""
  if not isinstance(reply, dict) or name not in reply:
    raise Malformed(f'wrong_shape: {_shown(reply)} has no field {name}')
  return reply[name]


def lists(value: Any, count: int) -> list[list[Any]]:
  """`value` as one list for each of `count` queries."""
  if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
    raise Malformed(f'wrong_shape: {_shown(value)} is no list of lists')
  if len(value) != count:
    raise Malformed(f'wrong_count: {len(value)} lists for {count} queries')
  return value


def reply(
  rows: Sequence[Sequence[Any]], scores: Sequence[Sequence[Any]] | None, top_k: int
) -> Reply:
  """Documents from rows, one list of them per query.

  Args:
    rows: documents, as objects or texts.
    scores: beside them, None for one that was not sent; None if the dialect has no scores. The
      score of a document without one is 1 / its rank.
    top_k: what exceeds it is dropped: some servers send as many as they were started with.

  Raises:
    Malformed: for a row that is no document, a score that is no number, and scores of some rows.
  """
  has_none = scores is None
  if scores is None:
    scores = [[None] * len(found) for found in rows]
  if [len(found) for found in rows] != [len(beside) for beside in scores]:
    raise Malformed('wrong_count: not as many scores as documents')
  sent = [score is not None for beside in scores for score in beside]
  if any(sent) and not all(sent):
    raise Malformed(f'missing_score: {sent.count(False)} of {len(sent)} documents have none')
  found = tuple(
    tuple(_document(row, score, n) for n, (row, score) in enumerate(zip(own, beside), 1))[:top_k]
    for own, beside in zip(rows, scores)
  )
  return Reply(found, lacks_scores=not all(sent) and not has_none)


def _document(row: Any, score: Any, rank: int) -> Document:
  number = 1.0 / rank if score is None else score
  if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
    raise Malformed(f'bad_score: {_shown(score)}')
  fields = row if isinstance(row, dict) else {'contents': row}
  if isinstance(fields.get('title'), str) and isinstance(fields.get('text'), str):
    title, text = fields['title'], fields['text']
  else:
    contents = fields.get('contents', fields.get('text'))
    if not isinstance(contents, str):
      raise Malformed(f'wrong_shape: {_shown(row)} is no document')
    title, text = corpus.split(contents)
  for part in (title, text):
    if len(part) > corpus.MAX_CHARACTERS:
      raise Malformed(f'too_large: a document of {len(part)} characters')
    try:
      part.encode()
    except UnicodeEncodeError:  # It would fail in the tokenizer.
      raise Malformed(f'bad_text: {_shown(part)} holds half a surrogate pair') from None
  identity = fields.get('id')
  if identity is None or identity == '':
    identity = hashlib.sha256(f'{title}\n{text}'.encode()).hexdigest()[:16]
  return Document(str(identity), title, text, float(number))


def _shown(value: object) -> str:
  shown = repr(value)
  return shown if len(shown) <= 80 else f'{shown[:80]}…'
