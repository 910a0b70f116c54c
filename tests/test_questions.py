"""Question files, and the shuffled sequence that is a function of seed and position."""

import json
import os
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from jaxsearch import questions
from jaxsearch.types import Question, UserError

QUESTIONS = [
  Question('a', 'Where is Ola?', ('Vantor', 'the city of Vantor'), {'hops': 1}),
  Question('b', 'Wer führt 東京\u2028 an?', ('Mira',)),
  Question('c', 'Third?', ('3',)),
  Question('d', 'Fourth?', ('4',)),
  Question('e', 'Fifth?', ('5',)),
]
GOOD = {'id': 'x', 'question': 'q?', 'golden_answers': ['g']}


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'q.jsonl'
  questions.write(path, QUESTIONS)
  assert questions.read(path) == QUESTIONS
  first = json.loads(path.read_text(encoding='utf-8').split('\n')[0])
  assert list(first) == ['id', 'question', 'golden_answers', 'metadata']


def test_metadata_may_be_missing_and_blank_lines_are_skipped(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'q.jsonl'
  path.write_text(f'\n{json.dumps(GOOD)}\n\n{json.dumps({**GOOD, "id": "y", "metadata": None})}\n')
  assert questions.read(path) == [Question('x', 'q?', ('g',)), Question('y', 'q?', ('g',))]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"id": "x",', r'q\.jsonl, line 2 is not JSON'),
    ('["x"]', r'q\.jsonl, line 2 is not a JSON object'),
    ({**GOOD, 'id': 7}, "line 2, field 'id' is 7; it must be a string"),
    ({**GOOD, 'question': ' '}, "line 2, field 'question' is ' '; it must be a string"),
    ({'id': 'x', 'question': 'q?'}, "line 2, field 'golden_answers' is missing"),
    ({**GOOD, 'golden_answers': 'g'}, "line 2, field 'golden_answers' is 'g'; .* list"),
    ({**GOOD, 'golden_answers': []}, r"line 2, field 'golden_answers' is \[\]"),
    ({**GOOD, 'golden_answers': ['g', '']}, "line 2, field 'golden_answers'"),
    ({**GOOD, 'metadata': [1]}, "line 2, field 'metadata'"),
    ({**GOOD, 'id': 'first'}, "line 2, field 'id': 'first' is already that of line 1"),
  ],
)
def test_a_broken_line_is_named(tmp_path: pathlib.Path, line: object, message: str) -> None:
  path = tmp_path / 'q.jsonl'
  text = line if isinstance(line, str) else json.dumps(line)
  path.write_text(json.dumps({**GOOD, 'id': 'first'}) + '\n' + text + '\n')
  with pytest.raises(UserError, match=message):
    questions.read(path)


def test_an_empty_or_missing_file_is_refused(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'q.jsonl'
  with pytest.raises(UserError, match='cannot be read'):
    questions.read(path)
  path.write_text('\n')
  with pytest.raises(UserError, match='has no questions'):
    questions.read(path)
  path.write_bytes(b'\xff')
  with pytest.raises(UserError, match='cannot be read'):
    questions.read(path)


def test_reading_imports_no_jax_and_taking_starts_no_backend(tmp_path: pathlib.Path) -> None:
  questions.write(tmp_path / 'q.jsonl', QUESTIONS)
  code = (
    'import sys; from jaxsearch import questions; found = questions.read(sys.argv[1]); '
    "assert not {'jax', 'pyarrow'} & set(sys.modules); "
    'from jaxsearch.sources import shuffled; '
    'assert len(shuffled.open(found, 0, None).take(1, 4)) == 4; '
    'import jax\n'
    'try: jax.devices()\n'
    'except RuntimeError: sys.exit(0)\n'
    'sys.exit("the platform that does not exist was not asked for")'
  )
  # With this platform, starting a backend at any moment is an error.
  environment = {**os.environ, 'JAX_PLATFORMS': 'no_such_platform'}
  subprocess.run(
    [sys.executable, '-c', code, str(tmp_path / 'q.jsonl')], check=True, env=environment
  )


def _parquet(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  return path


def _row(index: int, text: str, source: str = 'nq', split: str = 'train', **more: object) -> dict:
  """A row as Search-R1's scripts write it; our wording of its instructions."""
  content = (
    'Answer the question between <answer> and </answer>, such as <answer> Oslo </answer>. '
    f'Question: {text}?\n'
  )
  return {
    'data_source': source,
    'prompt': [{'role': 'user', 'content': content}],
    'ability': 'fact-reasoning',
    'reward_model': {'style': 'rule', 'ground_truth': {'target': [f'{text}!', 'or else']}},
    'extra_info': {'split': split, 'index': index},
    **more,
  }


def test_the_question_is_what_stands_behind_the_instructions(tmp_path: pathlib.Path) -> None:
  rows = [
    _row(0, 'who is ola'),
    _row(0, 'which Question: is asked', source='hotpotqa'),
    _row(0, 'a', split='test'),
  ]
  assert questions.read(_parquet(tmp_path / 'q.parquet', rows)) == [
    Question('nq/train/0', 'who is ola?', ('who is ola!', 'or else'), _data('nq')),
    Question(
      'hotpotqa/train/0', 'is asked?', ('which Question: is asked!', 'or else'), _data('hotpotqa')
    ),
    Question('nq/test/0', 'a?', ('a!', 'or else'), _data('nq', 'test')),
  ]


def _data(dataset: str, split: str = 'train') -> dict[str, str]:
  return {'dataset': dataset, 'split': split}


def test_the_columns_of_flashrag_come_first(tmp_path: pathlib.Path) -> None:
  more = {'id': 'train_0', 'question': ' who is Ola ', 'golden_answers': ['Ola', 'she']}
  rows = [
    _row(0, 'x', **more, metadata={'hops': 2, 'type': None}),
    _row(0, 'y', source='2wiki', **more, metadata={'hops': None, 'type': 'bridge'}),
  ]
  assert questions.read(_parquet(tmp_path / 'q.parquet', rows)) == [
    Question('nq/train_0', 'who is Ola', ('Ola', 'she'), {'hops': 2, **_data('nq')}),
    Question('2wiki/train_0', 'who is Ola', ('Ola', 'she'), {'type': 'bridge', **_data('2wiki')}),
  ]


def test_what_other_systems_make_of_these_columns_is_read(tmp_path: pathlib.Path) -> None:
  """ReSearch's own, with answers right in `ground_truth`; verl's, with the question twice."""
  path = _parquet(
    tmp_path / 'q.parquet',
    [
      {
        'question': 'q?',
        'reward_model': {'ground_truth': ['a', 'b']},
        'extra_info': {'id': '2hop'},
      },
    ],
  )
  assert questions.read(path) == [Question('2hop', 'q?', ('a', 'b'))]
  prompt = [{'role': 'system', 'content': 'Question: no'}, {'role': 'user', 'content': 'Hi'}]
  path = _parquet(
    tmp_path / 'q.parquet',
    [{'prompt': prompt, 'extra_info': {'question': 'q?'}, 'reward_model': {'ground_truth': 'a'}}],
  )
  assert questions.read(path) == [Question('1', 'q?', ('a',))]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'prompt': [{'role': 'user', 'content': 'Who?'}]},
      "row 2, column prompt: 'Who\\?' does not say",
    ),
    ({'prompt': None}, 'row 2, column prompt'),
    ({'prompt': [{'role': 'user', 'content': 'Question: '}]}, "row 2, field 'question' is ''"),
    ({'reward_model': None}, "row 2, field 'golden_answers' is missing"),
    (
      {'extra_info': {'split': 'train', 'index': 7}},
      "row 2, .* 'nq/train/7' is already that of row 1",
    ),
  ],
)
def test_a_broken_row_is_named(tmp_path: pathlib.Path, change: dict, message: str) -> None:
  path = _parquet(tmp_path / 'q.parquet', [_row(7, 'a'), {**_row(8, 'b'), **change}])
  with pytest.raises(UserError, match=message):
    questions.read(path)


def test_what_is_not_parquet_is_told(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'q.parquet'
  with pytest.raises(UserError, match='cannot be read'):
    questions.read(path)
  questions.write(path, QUESTIONS)
  with pytest.raises(UserError, match='Parquet file, or JSON lines'):
    questions.read(path)
  with pytest.raises(UserError, match='has no questions'):
    questions.read(_parquet(path, [{'unknown': 1}][:0]))
