"""Question sources: a contract for every file of the folder, and numbers worked by hand."""

import json

import numpy as np
import pytest

from jaxsearch import batching, config, plugins
from jaxsearch.algo.summary import Summary
from jaxsearch.intake import Intake
from jaxsearch.progress import Progress
from jaxsearch.sources import prioritized, shuffled
from jaxsearch.sources._contract import Result
from jaxsearch.types import Question, Status

QUESTIONS = [Question(name, f'{name}?', (name,)) for name in 'abcde']


def names(asked):
  return ''.join(q.id for q in asked)


@pytest.mark.parametrize('name', plugins.names('sources'))
def test_contract(name):
  """All hosts draw alike, and what was saved goes on as if nothing had happened."""
  module = plugins.load('sources', name)
  one, other = (module.open(QUESTIONS, 3, None) for _ in range(2))
  taken = 0
  for step in range(4):
    asked = one.take(taken, 7)  # More than there are.
    assert len(asked) == 7 and set(names(asked)) <= set('abcde')
    assert names(other.take(taken, 7)) == names(asked)
    taken += 7
    results = [Result(q.id, min(step, 2), 2) for q in asked]
    one.feedback(results)
    other.feedback(results)
    other = module.open(QUESTIONS, 3, json.loads(json.dumps(other.state())))
  assert names(module.open(QUESTIONS, 4, None).take(0, 60)) != names(
    module.open(QUESTIONS, 3, None).take(0, 60)
  )


def test_shuffled_every_pass_is_a_new_order_of_all_questions():
  source = shuffled.open(QUESTIONS, 3, None)
  taken = names(source.take(0, 60))
  passes = [taken[at : at + 5] for at in range(0, 60, 5)]
  assert {tuple(sorted(p)) for p in passes} == {tuple('abcde')}
  assert len(set(passes)) > 6
  assert names(source.take(42, 6)) == taken[42:48]  # Any stretch at any time, over a pass's end.


def test_prioritized_draws_by_what_was_not_answered():
  source = prioritized.open(QUESTIONS[:3], 0, None)
  source.feedback([Result('a', 1, 4), Result('b', 3, 4), Result('a', 1, 4)])
  assert source.state() == {'a': [2, 8], 'b': [3, 4]}
  # 1 - s is 0.75, 0.25 and 1, of 2 in all.
  first = [names(source.take(start, 1)) for start in range(4000)]
  shares = [first.count(name) / 4000 for name in 'abc']
  np.testing.assert_allclose(shares, [0.375, 0.125, 0.5], atol=0.03)
  source.feedback([Result('c', 9, 9)])
  drawn = [names(source.take(start, 2)) for start in range(200)]
  assert all(set(pair) == {'a', 'b'} for pair in drawn)
  assert sorted(names(source.take(0, 3))) == ['a', 'b', 'c']  # It comes up where no other is left.


def summary(position, em, host=0, status=Status.EOS):
  rewards = {} if status is Status.INFRA else {'reward': em, 'em': em}
  return Summary(position, 0, rewards, status, (1,), (0,), 1, 5, host=host)


class Recorder:
  """A source that remembers what it is told."""

  def __init__(self):
    self.told = []

  def take(self, start, n):
    return [QUESTIONS[i % 5] for i in range(start, start + n)]

  def feedback(self, results):
    self.told.append(list(results))


def test_hosts_share_the_questions_and_are_told_of_all(monkeypatch):
  c = config.Config()
  c.algo.questions_per_step, c.algo.group_size = 4, 2
  found = [
    *(summary(3, em, host=0) for em in (1.0, 0.0)),
    *(summary(4, 0.0, host=0) for _ in range(2)),
    *(summary(5, 1.0, host=1) for _ in range(2)),
    summary(6, 1.0, host=1),
    summary(6, 0.0, host=1, status=Status.INFRA),
  ]
  tasks = []
  for host in (0, 1):
    recorder, progress = Recorder(), Progress(c.schedule, questions=3)
    monkeypatch.setattr(shuffled, 'open', lambda *_, recorder=recorder: recorder)
    made = Intake(c, batching.Place(host, 2, 1), QUESTIONS, progress, None)
    tasks += [(t.position, t.question.id, t.sample) for t in made.take(5)]
    assert progress.questions == 7
    made.feedback(found)
    assert recorder.told == [
      [Result('d', 1, 2), Result('e', 0, 2), Result('a', 2, 2), Result('b', 1, 1)]
    ]
  assert tasks == [(p, q, s) for p, q in zip((3, 4, 5, 6), 'deab') for s in (0, 1)]
