"""The journal of searches."""

import dataclasses
import signal
import subprocess
import sys

import pytest

from jaxsearch.retrieval import journal as journals
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError

REQUEST = SearchRequest('4.7.1', 2, 0, ('où est-ce?\ud800', 'b'), 3, 'q', 0.5, 2**64 - 1)
RESULT = SearchResult(
  Outcome.OK, ((Document('1', 'Ü\n', 'text\u2028"', 0.1 + 0.2),), ()), latency_s=1 / 3, message='m'
)


def test_answers_come_back_equal_by_their_whole_key(tmp_path):
  journal = journals.Journal(tmp_path / 'deep' / 'journal')
  journal.open(4)
  failure = SearchResult(Outcome.TIMEOUT, latency_s=20.0, message='late')
  journal.put(REQUEST, RESULT)
  journal.put(dataclasses.replace(REQUEST, attempt=1), failure)
  for _ in range(2):
    assert journal.get(REQUEST) == RESULT
    assert journal.get(dataclasses.replace(REQUEST, attempt=1)) == failure
    for other in ({'turn': 1}, {'trajectory': '4.7.2'}, {'queries': ('b',)}, {'attempt': 2}):
      assert journal.get(dataclasses.replace(REQUEST, **other)) is None
    journal.open(4)  # Now from the file.
  journal.open(5)
  assert journal.get(REQUEST) is None


@pytest.mark.parametrize('torn', [b'{"trajectory": "4.', b'null\n', b'{}\n[', b'\xff\xfe\n'])
def test_a_torn_line_counts_as_not_written_and_spoils_no_other(tmp_path, torn):
  journal = journals.Journal(tmp_path)
  journal.open(4)
  journal.put(REQUEST, RESULT)
  journal.close()
  [path] = tmp_path.iterdir()
  path.write_bytes(path.read_bytes() + torn)
  journal.open(4)
  later = dataclasses.replace(REQUEST, turn=3)
  journal.put(later, RESULT)
  journal.open(4)
  assert journal.get(REQUEST) == journal.get(later) == RESULT


def test_what_was_put_survives_a_kill(tmp_path):
  program = f"""
import os, signal
from jaxsearch.retrieval import journal
from jaxsearch.types import *
log = journal.Journal({str(tmp_path)!r})
log.open(1)
for turn in range(3):
  request = SearchRequest('1.0.0', turn, 0, ('q',), 1, '', 0.0, 0)
  log.put(request, SearchResult(Outcome.EMPTY, ((),)))
os.kill(os.getpid(), signal.SIGKILL)
"""
  assert subprocess.run([sys.executable, '-c', program]).returncode == -signal.SIGKILL
  journal = journals.Journal(tmp_path)
  journal.open(1)
  request = SearchRequest('1.0.0', 2, 0, ('q',), 1, '', 0.0, 0)
  assert journal.get(request) == SearchResult(Outcome.EMPTY, ((),))


def test_old_steps_are_pruned(tmp_path):
  journal = journals.Journal(tmp_path)
  for step in (8, 9, 10, 11):
    journal.open(step)
    journal.put(dataclasses.replace(REQUEST, turn=step), RESULT)
  journal.prune(before_step=10)
  found = []
  for step in (8, 9, 10, 11):
    journal.open(step)
    found.append(journal.get(dataclasses.replace(REQUEST, turn=step)) is not None)
  assert found == [False, False, True, True]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='run_dir'):
    journals.Journal(tmp_path / 'file' / 'journal').open(0)


def test_a_forgotten_step_is_searched_again(tmp_path):
  journal = journals.Journal(tmp_path)
  for step in (1, 2):
    journal.open(step)
    journal.put(REQUEST, RESULT)
  journal.forget(2)
  journal.open(2)
  assert journal.get(REQUEST) is None
  journal.open(1)
  assert journal.get(REQUEST) == RESULT
