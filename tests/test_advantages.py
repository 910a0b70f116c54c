"""Advantages against numbers worked by hand."""

import inspect

import numpy as np
import pytest

from jaxsearch import plugins
from jaxsearch.algo import advantages
from jaxsearch.types import Summary


def summary(position, sample, reward, *, is_infra=False, policy_tokens=3, host=0):
  rewards = {} if is_infra else {'reward': reward, 'em': 9.0}
  return Summary(
    position, sample, rewards, is_infra, policy_tokens, searches=1, length=20, host=host
  )


def rng():
  return np.random.default_rng(0)


def test_group_zscore_by_hand():
  # Group 4: mean 2/3, std sqrt((4/9 + 1/9 + 1/9) / 2) = 0.5773503.
  # Group 5: mean 0.2, std 0.1 * sqrt(2) = 0.1414214.
  batch = [
    summary(4, 0, 0.0, policy_tokens=2),
    summary(5, 0, 0.1, policy_tokens=1),
    summary(4, 1, 1.0, policy_tokens=4),
    summary(5, 1, 0.3, policy_tokens=0),
    summary(4, 2, 1.0, policy_tokens=1),
  ]
  found = advantages.group_zscore(batch, rng())
  assert [len(a) for a in found] == [2, 1, 4, 0, 1]
  assert all(a.dtype == np.float32 for a in found)
  np.testing.assert_allclose(found[0], [-1.154699, -1.154699], rtol=1e-5)
  np.testing.assert_allclose(found[1], [-0.707102], rtol=1e-5)  # 0.1 / 0.1414224
  np.testing.assert_allclose(found[2], [0.577349] * 4, rtol=1e-5)
  np.testing.assert_allclose(found[4], [0.577349], rtol=1e-5)


@pytest.mark.parametrize('reward', [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_equal_rewards_and_a_group_of_one_are_exactly_zero(reward, size):
  found = advantages.group_zscore([summary(0, i, reward) for i in range(size)], rng())
  assert all((a == 0).all() for a in found)


def test_standard_deviation_is_taken_in_float64():
  # In float32 all three are 2^24 and the spread is lost.
  found = advantages.group_zscore([summary(0, i, 2.0**24 + i) for i in range(3)], rng())
  np.testing.assert_allclose([a[0] for a in found], [-1.0, 0.0, 1.0], atol=2e-6)


def test_lost_rollouts_are_out_of_mean_and_spread():
  kept = [summary(0, 0, 0.0), summary(0, 2, 1.0)]
  lost = summary(0, 1, 0.0, is_infra=True, policy_tokens=5)
  found = advantages.group_zscore([kept[0], lost, kept[1]], rng())
  alone = advantages.group_zscore(kept, rng())
  np.testing.assert_array_equal(found[0], alone[0])
  np.testing.assert_array_equal(found[2], alone[1])
  np.testing.assert_array_equal(found[1], np.zeros(5))


def test_groups_of_different_hosts_do_not_mix():
  batch = [summary(0, i, float(i == h), host=h) for h in (0, 1) for i in (0, 1)]
  found = advantages.group_zscore(batch, rng())
  assert [np.sign(a[0]) for a in found] == [1, -1, -1, 1]


def test_shuffled_control_permutes_over_the_whole_batch():
  batch = [summary(p, s, float(10 * p + s)) for p in range(4) for s in range(3)]
  batch[5] = summary(1, 2, 0.0, is_infra=True)
  generator = np.random.default_rng(3)
  found = advantages.shuffled_group_zscore(batch, generator)
  true = advantages.group_zscore(batch, rng())
  assert any(a[0] != b[0] for a, b in zip(found, true))
  assert (found[5] == 0).all()
  # Only a permutation across groups can change a group's own set of z-scores.
  assert sorted(round(float(a[0]), 4) for a in found[:3]) != [-1.0, 0.0, 1.0]
  again = advantages.shuffled_group_zscore(batch, np.random.default_rng(3))
  other = advantages.shuffled_group_zscore(batch, np.random.default_rng(4))
  assert all((a == b).all() for a, b in zip(found, again))
  assert any((a != b).any() for a, b in zip(found, other))


def test_shuffled_control_uses_the_same_rewards_once_each():
  # With one group there is nothing to move in or out: the z-scores are permuted.
  batch = [summary(0, s, float(s * s)) for s in range(6)]
  found = advantages.shuffled_group_zscore(batch, rng())
  true = advantages.group_zscore(batch, rng())
  np.testing.assert_allclose(sorted(a[0] for a in found), sorted(a[0] for a in true), rtol=1e-6)


def test_shuffled_control_does_not_depend_on_the_order_of_the_summaries():
  batch = [summary(p, s, float(p + s)) for p in range(3) for s in range(2)]
  found = advantages.shuffled_group_zscore(batch, np.random.default_rng(1))
  backwards = advantages.shuffled_group_zscore(batch[::-1], np.random.default_rng(1))[::-1]
  assert all((a == b).all() for a, b in zip(found, backwards))


ESTIMATORS = [n for n, f in inspect.getmembers(advantages, inspect.isfunction) if n[0] != '_']


@pytest.mark.parametrize('name', ESTIMATORS)
def test_contract_of_every_estimator(name):
  estimate = plugins.function(advantages, name)
  lost = summary(2, 0, 0.0, is_infra=True, policy_tokens=2)
  batch = [summary(p, s, 0.5, policy_tokens=p + s) for p in (0, 1) for s in (0, 1)] + [lost]
  found = estimate(batch, rng())
  assert [a.shape for a in found] == [(s.policy_tokens,) for s in batch]
  assert all(a.dtype == np.float32 and (a == 0).all() for a in found)
  assert estimate([], rng()) == []
