"""What servers read out of a request, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


class BadRequest(ValueError):
  """The asking side has something to mend; the message names the field."""


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request.

  Attributes:
    queries: one or several.
    top_k: documents wanted per query; 0: as many as the server gives by itself.
    scores: whether scores are wanted.
    single: whether it was asked in a form for one query.
  """

  queries: tuple[str, ...]
  top_k: int
  scores: bool = False
  single: bool = False


def text(body: Mapping[str, Any], field: str) -> str:
  """The text in a field."""
  value = body.get(field)
  if not isinstance(value, str):
    raise BadRequest(f'{field} is {_shown(value)}; allowed: a text.')
  return _whole(value)


def texts(body: Mapping[str, Any], field: str) -> tuple[str, ...]:
  """The list of texts in a field."""
  value = body.get(field)
  if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
    raise BadRequest(f'{field} is {_shown(value)}; allowed: a list of texts.')
  return tuple(map(_whole, value))


def number(body: Mapping[str, Any], field: str, default: int = 0) -> int:
  """The count in a field; `default` if it is missing, null or 0."""
  value = body.get(field)
  if value is None:
    return default
  if not isinstance(value, int) or isinstance(value, bool) or value < 0:
    raise BadRequest(f'{field} is {_shown(value)}; allowed: a number of documents, or null.')
  return value or default


def flag(body: Mapping[str, Any], field: str) -> bool:
  """True or false in a field; false if it is missing or null."""
  value = body.get(field)
  if value is not None and not isinstance(value, bool):
    raise BadRequest(f'{field} is {_shown(value)}; allowed: true or false.')
  return bool(value)


def _whole(text: str) -> str:
  """The text with '?' for halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
  return text.encode(errors='replace').decode()


def _shown(value: object) -> str:
  shown = 'missing' if value is None else repr(value)
  return shown if len(shown) <= 80 else f'{shown[:80]}…'
