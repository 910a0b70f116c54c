"""Question files: JSON lines in the FlashRAG shape, or Parquet in the columns of Search-R1."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxsearch.questions import _parquet
from jaxsearch.types import Question, UserError


def read(path: str | pathlib.Path) -> list[Question]:
  """Reads JSON lines {id, question, golden_answers, metadata}; metadata may be missing.

  A name that ends in .parquet is a file in the columns of `_parquet`.

  Raises:
    UserError: naming file, line and field of the first mistake, or an empty or missing file.
  """
  is_parquet = pathlib.Path(path).suffix == '.parquet'
  questions: list[Question] = []
  place_of: dict[str, str] = {}
  for where, fields in _parquet.rows(path) if is_parquet else _rows(path):
    question = _question(fields, where)
    place = where.removeprefix(f'{path}, ')
    if question.id in place_of:
      raise UserError(
        f"{where}, field 'id': {question.id!r} is already that of {place_of[question.id]}. "
        'Give every question its own id.'
      )
    place_of[question.id] = place
    questions.append(question)
  if not questions:
    raise UserError(f'{path} has no questions. Each line is one JSON object: {_SHAPE}.')
  return questions


def write(path: str | pathlib.Path, questions: Iterable[Question]) -> None:
  """Writes the file that `read` reads."""
  with pathlib.Path(path).open('w', encoding='utf-8') as file:
    for question in questions:
      line = {
        'id': question.id,
        'question': question.text,
        'golden_answers': list(question.golden_answers),
        'metadata': dict(question.metadata),
      }
      file.write(json.dumps(line, ensure_ascii=False) + '\n')


def _rows(path: str | pathlib.Path) -> Iterator[tuple[str, Any]]:
  try:
    # Split at line feeds only: other line breaks of Unicode may stand inside a JSON string.
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'The question file {str(path)!r} cannot be read: {error}. Give a file of JSON lines.'
    ) from error
  for number, line in enumerate(lines, 1):
    where = f'{path}, line {number}'
    if not line.strip():
      continue
    try:
      yield where, json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(
        f'{where} is not JSON: {error}. Each line is one object: {_SHAPE}.'
      ) from error


def _question(fields: Any, where: str) -> Question:
  if not isinstance(fields, Mapping):
    raise UserError(f'{where} is not a JSON object. Each line is one object: {_SHAPE}.')
  for field, (is_right, wanted) in _FIELDS.items():
    if not is_right(fields.get(field)):
      found = repr(fields[field]) if field in fields else 'missing'
      raise UserError(f'{where}, field {field!r} is {found[:80]}; it must be {wanted}.')
  return Question(
    id=fields['id'],
    text=fields['question'],
    golden_answers=tuple(fields['golden_answers']),
    metadata=fields.get('metadata') or {},
  )


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_metadata(value: Any) -> bool:
  return value is None or isinstance(value, Mapping)


_SHAPE = '{"id": "…", "question": "…", "golden_answers": ["…"], "metadata": {}}'
_FIELDS = {
  'id': (_is_text, 'a string that is not empty'),
  'question': (_is_text, 'a string that is not empty'),
  'golden_answers': (_is_texts, 'a list of at least one string, none of them empty'),
  'metadata': (_is_metadata, 'an object, or left out'),
}
