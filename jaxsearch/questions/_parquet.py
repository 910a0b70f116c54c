"""Question files in the columns that Search-R1 and verl train from.

  data_source, prompt [{role, content}], reward_model {ground_truth {target}}, extra_info {split,
  index}; often also those of FlashRAG: id, question, golden_answers, metadata

`prompt` holds instructions of theirs around the question, which our own protocol would repeat. So
the question is the column `question`, else `extra_info.question`, else what follows the last
"Question:" of the last message. Indices and ids start afresh with each data set, and indices with
each split: an id of ours names them all.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsearch.types import UserError

_COLUMNS = (
  *('id', 'question', 'golden_answers', 'metadata'),
  *('data_source', 'prompt', 'reward_model', 'extra_info'),
)
_MARK = 'Question:'


def rows(path: str | pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """(where, fields of FlashRAG's shape) of each row, in order; the fields are not checked yet.

  Raises:
    UserError: if the file is not Parquet, or a row does not say what its question is.
  """
  import pyarrow  # Most question files are JSON lines.
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
      number = 0
      for batch in file.iter_batches(columns=columns):
        for row in batch.to_pylist():
          number += 1
          where = f'{path}, row {number}'
          yield where, _fields(row, where, number)
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(
      f'The question file {str(path)!r} cannot be read: {error}. Give a Parquet file, or JSON '
      'lines under another name.'
    ) from error


def _fields(row: Mapping[str, Any], where: str, number: int) -> dict[str, Any]:
  source = row.get('data_source')
  extra = _mapping(row.get('extra_info'))
  split = extra.get('split')
  name = extra.get('id') if row.get('id') is None else row['id']
  if name is None:
    place = number if extra.get('index') is None else extra['index']
    name = place if split is None else f'{split}/{place}'
  metadata = {k: v for k, v in _mapping(row.get('metadata')).items() if v is not None}
  metadata |= {k: v for k, v in (('dataset', source), ('split', split)) if v is not None}
  fields = {
    'id': f'{source}/{name}' if source else str(name),
    'question': _question(row, extra, where),
    'metadata': metadata,
  }
  answers = _answers(row)
  return fields if answers is None else {**fields, 'golden_answers': answers}


def _question(row: Mapping[str, Any], extra: Mapping[str, Any], where: str) -> Any:
  for value in (row.get('question'), extra.get('question')):
    if value is not None:
      return value.strip() if isinstance(value, str) else value
  prompt = row.get('prompt')
  last = prompt[-1] if isinstance(prompt, list) and prompt else prompt
  text = _mapping(last).get('content', last)
  if not isinstance(text, str) or _MARK not in text:
    raise UserError(
      f'{where}, column prompt: {str(text)[:80]!r} does not say where the question begins: it has '
      f'no {_MARK!r}. Add a column question with the question alone.'
    )
  return text.rpartition(_MARK)[2].strip()


def _answers(row: Mapping[str, Any]) -> Any:
  """Those of FlashRAG's column, else those that the reward compares with; None without any."""
  found = row.get('golden_answers')
  if found is None:
    truth = _mapping(row.get('reward_model')).get('ground_truth')
    found = truth.get('target') if isinstance(truth, Mapping) else truth
  return [found] if isinstance(found, str) else found


def _mapping(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}
