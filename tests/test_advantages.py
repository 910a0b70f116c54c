"""Advantages against numbers worked by hand."""

import dataclasses
import inspect

import numpy as np
import pytest

from jaxsearch import plugins
from jaxsearch.algo import advantages
from jaxsearch.algo.summary import Summary
from jaxsearch.types import Status, UserError


def summary(position, sample, reward, *, is_infra=False, policy_tokens=3, searches=1, host=0):
  rewards = {} if is_infra else {'reward': reward, 'em': 9.0, 'turn/0': reward}
  status = Status.INFRA if is_infra else Status.EOS
  return Summary(position, sample, rewards, status, (policy_tokens,), (sample,), searches, 20, host)


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


def test_group_mean_by_hand():
  # Questions 0 and 1: means 2/3 and 0.2.
  batch = [summary(0, i, r) for i, r in enumerate((0.0, 1.0, 1.0))]
  batch += [summary(1, i, r) for i, r in enumerate((0.1, 0.3))]
  found = [a[0] for a in advantages.group_mean(batch, rng())]
  np.testing.assert_allclose(found, [-2 / 3, 1 / 3, 1 / 3, -0.1, 0.1], rtol=1e-6)


def test_leave_one_out_by_hand():
  # The others' means: 1, 0.5, 0.5.
  batch = [summary(0, i, r) for i, r in enumerate((0.0, 1.0, 1.0))]
  found = [a[0] for a in advantages.leave_one_out(batch, rng())]
  np.testing.assert_allclose(found, [-1.0, 0.5, 0.5], rtol=1e-6)


def test_raw_reward_has_no_baseline():
  batch = [summary(0, 0, 0.7), summary(0, 1, 0.7), summary(1, 0, 0.0, is_infra=True)]
  found = [a[0] for a in advantages.raw_reward(batch, rng())]
  np.testing.assert_allclose(found, [0.7, 0.7, 0.0])


def test_stratified_zscore_by_hand():
  # Strata {0, 1} and {1, 1}: std sqrt(0.5). All four: mean 0.75, std 0.5.
  rewards, searches = (0.0, 1.0, 1.0, 1.0), (1, 1, 2, 2)
  batch = [summary(0, i, r, searches=n) for i, (r, n) in enumerate(zip(rewards, searches))]
  found = [a[0] for a in advantages.stratified_zscore(batch, rng())]
  np.testing.assert_allclose(found, [-1.10355, 0.60355, 0.25, 0.25], rtol=1e-4)


def test_a_stratum_of_one_has_only_the_plain_half():
  batch = [summary(0, 0, 0.0), summary(0, 1, 1.0), summary(0, 2, 1.0, searches=3)]
  found = [a[0] for a in advantages.stratified_zscore(batch, rng())]
  plain = [a[0] for a in advantages.group_zscore(batch, rng())]
  np.testing.assert_allclose(found[2], plain[2] / 2, rtol=1e-6)
  assert np.isfinite(found).all()


def test_turn_returns_by_hand():
  # The last has no second turn; of a turn that only one rollout has, nothing can be said.
  turns = [(0.2, 1.0), (0.0, 0.0), (0.6,), (0.0, 0.0, 0.3)]
  batch = [
    Summary(
      0,
      i,
      {f'turn/{k}': r for k, r in enumerate(t)},
      Status.EOS,
      (2, 1, 3)[: len(t)],
      (i,) * len(t),
      1,
      9,
    )
    for i, t in enumerate(turns)
  ]
  found = advantages.turn_returns(batch, rng())
  # Sums to go (1.2, 1), (0, 0), (0.6), (0.3, 0.3, 0.3); means 0.525, 1.3 / 3, 0.3.
  expected = [(0.675,) * 2 + (0.566667,), (-0.525,) * 2 + (-0.433333,), (0.075,) * 2]
  expected.append((-0.225,) * 2 + (-0.133333,) + (0.0,) * 3)
  for values, numbers in zip(found, expected, strict=True):
    np.testing.assert_allclose(values, numbers, rtol=1e-4, atol=1e-7)


def test_tree_zscore_by_hand():
  # Rewards 0, 0.5, 1 have mean 0.5 and std 0.5: scores -1, 0, 1. The last two share a segment.
  owners = [(0, 0), (1, 1), (1, 2)]
  batch = [
    Summary(0, i, {'reward': i / 2}, Status.EOS, (2, 1), paths, 1, 9)
    for i, paths in enumerate(owners)
  ]
  found = advantages.tree_zscore(batch, rng())
  expected = [(-1, -1, -1), (0.5, 0.5, 0), (0.5, 0.5, 1)]
  for values, numbers in zip(found, expected, strict=True):
    np.testing.assert_allclose(values, numbers, atol=1e-5)


def test_turn_returns_needs_a_reward_that_knows_turns():
  batch = [dataclasses.replace(summary(0, i, 0.5), rewards={'reward': 0.5}) for i in range(2)]
  with pytest.raises(UserError, match='says nothing of turns'):
    advantages.turn_returns(batch, rng())


BASELINES = (
  'tree_zscore',
  'group_zscore',
  'group_mean',
  'leave_one_out',
  'stratified_zscore',
  'turn_returns',
)


@pytest.mark.parametrize('name', BASELINES)
@pytest.mark.parametrize('reward', [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_equal_rewards_and_a_group_of_one_are_exactly_zero(reward, size, name):
  found = getattr(advantages, name)([summary(0, i, reward) for i in range(size)], rng())
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
  assert [a.shape for a in found] == [(sum(s.segments),) for s in batch]
  assert all(a.dtype == np.float32 for a in found)
  is_compared = name != 'raw_reward'
  assert all((a == 0).all() for a in (found if is_compared else found[-1:]))
  assert estimate([], rng()) == []
  backwards = estimate(batch[::-1], rng())[::-1]
  assert all((a == b).all() for a, b in zip(found, backwards))
