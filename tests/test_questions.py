"""Question files, and the shuffled sequence that is a function of seed and position."""

import json
import os
import pathlib
import subprocess
import sys

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
    "assert 'jax' not in sys.modules; "
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
