"""Which rollouts are trained, by hand."""

import inspect

import pytest

from jaxsearch.algo import selectors
from jaxsearch.algo.summary import Summary
from jaxsearch.types import Status


def summary(position, sample, *, status=Status.EOS, searches=1, reward=0.5):
  rewards = {} if status is Status.INFRA else {'reward': reward}
  return Summary(position, sample, rewards, status, (4,), (sample,), searches, 9)


def test_what_hit_a_cap_is_left_out():
  ends = [Status.EOS, Status.TURN_CAP, Status.ANSWER, Status.POLICY_TOKEN_CAP, Status.CONTEXT_CAP]
  found = selectors.unless_capped([summary(0, i, status=s) for i, s in enumerate(ends)])
  assert found == [True, False, True, False, False]


def test_only_questions_with_unequal_rewards_are_kept():
  batch = [summary(0, 0, reward=1.0), summary(0, 1, reward=0.0), summary(1, 0), summary(1, 1)]
  batch += [summary(2, 0), summary(2, 1, status=Status.INFRA)]
  assert selectors.if_unequal(batch) == [True, True, False, False, False, False]


def test_the_half_that_searched_most_is_kept_of_every_question():
  searches = [(0, 1), (0, 3), (0, 2), (0, 2), (1, 0), (1, 0), (1, 1)]
  batch = [summary(p, i, searches=n) for i, (p, n) in enumerate(searches)]
  assert selectors.deepest_half(batch) == [False, True, True, False, True, False, True]


SELECTORS = [n for n, f in inspect.getmembers(selectors, inspect.isfunction) if n[0] != '_']


@pytest.mark.parametrize('name', SELECTORS)
def test_contract_of_every_selector(name):
  select = getattr(selectors, name)
  ends = [Status.EOS, Status.TURN_CAP, Status.INFRA, Status.ANSWER]
  batch = [summary(p, s, status=ends[(p + s) % 4], searches=s) for p in (0, 1) for s in range(4)]
  found = select(batch)
  assert [type(kept) for kept in found] == [bool] * len(batch)
  assert select(batch[::-1]) == found[::-1] and select([]) == []
