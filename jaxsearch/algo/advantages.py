"""Advantages: from the rewards of the whole batch to one number per policy token.

An estimator maps (summaries, rng) to one float32 array [policy_tokens] per summary, in the same
order. `summaries` are those of every host; `rng` is the same on every host, so all agree. Rewards
of rollouts that the infrastructure lost are never read, and their arrays are zero.

GRPO (arXiv 2402.03300, section 4.1.2) gives every token of a rollout its rollout's z-score. Left
out: its process-supervision variant. REINFORCE++ with group baseline is `group_mean` with
`algo.whiten`; REINFORCE is `raw_reward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxsearch.algo.summary import Summary
from jaxsearch.types import UserError

_EPSILON = 1e-6
# Of Stratified GRPO; the paper's value is not published.
_STRATUM_SHARE = 0.5


def group_zscore(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """(reward - mean) / (std + 1e-6) over the rollouts of one question, std with n - 1, in float64.

  By hand: rewards 0, 1, 1 have mean 2/3 and std 0.57735, so the advantages are -1.1547, 0.57735
  twice. Equal rewards and a group of one give exactly 0 (ReSearch's code keeps the raw reward of
  a group of one).
  """
  del rng
  return _grouped(summaries, _zscore)


def group_mean(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """reward - mean over the rollouts of one question (Dr. GRPO, arXiv 2503.20783).

  By hand: rewards 0, 1, 1 give -2/3, 1/3 twice. Without the spread in the denominator, questions
  that are nearly always or nearly never answered weigh no more than others.
  """
  del rng
  return _grouped(summaries, lambda rewards: rewards - rewards.mean())


def leave_one_out(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """reward - mean of the question's other rollouts (RLOO, arXiv 2402.14740).

  That is n / (n - 1) times `group_mean`, and unbiased. By hand: rewards 0, 1, 1 give -1, 0.5 twice.
  """
  del rng
  return _grouped(summaries, lambda r: (r - r.mean()) * (len(r) / (len(r) - 1)))


def raw_reward(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """The reward itself, no baseline: REINFORCE as ZeroSearch has it (arXiv 2505.04588)."""
  del rng
  return _spread(summaries, [_reward(s) for s in summaries])


def stratified_zscore(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """Half `group_zscore`, half z-scores among rollouts that searched as often (arXiv 2510.06214).

  Rollouts of one question are compared with those of the same number of searches, so that a second
  search is not paid for what it cannot help; the plain half keeps what strata cannot compare. A
  stratum of one has no spread and gives 0. By hand: rewards 0, 1 with one search and 1, 1 with two
  have stratum scores -0.70711, 0.70711, 0, 0 and plain ones -1.5, 0.5, 0.5, 0.5, so the advantages
  are -1.10355, 0.60355, 0.25, 0.25.
  """
  del rng
  rewards = [_reward(s) for s in summaries]
  plain = _scores(_groups(summaries), rewards, _zscore)
  strata = _scores(_groups(summaries, by=lambda s: (s.searches,)), rewards, _zscore)
  return _spread(summaries, _STRATUM_SHARE * strata + (1 - _STRATUM_SHARE) * plain)


def turn_returns(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """Rewards of a turn and all later ones, less their mean over the question (arXiv 2510.14967).

  Turn k is the policy's k-th segment and its reward the number `turn/k`, 0 if there is none. Its
  tokens get the sum over turns from k on, not discounted, minus the mean of these sums over the
  question's rollouts that have a turn k; no spread. The released code takes that mean per token
  place; ours is per turn. By hand: turns (0.2, 1) and (0, 0) have sums (1.2, 1) and (0, 0), so the
  advantages are (0.6, 0.5) and (-0.6, -0.5).
  """
  del rng
  found = [np.zeros(len(s.segments)) for s in summaries]
  kept = [s for s in summaries if not s.is_infra]
  if kept and not any(name.startswith('turn/') for s in kept for name in s.rewards):
    raise UserError(
      'algo.advantage is turn_returns, but the reward says nothing of turns. Choose a reward.name '
      'that does, such as igpo, or another estimator.'
    )
  for members in _groups(summaries):
    returns = {i: _returns(summaries[i]) for i in members}
    for turn in range(max(len(values) for values in returns.values())):
      values = {i: to_go[turn] for i, to_go in returns.items() if turn < len(to_go)}
      if len(set(values.values())) > 1:
        mean = np.mean(list(values.values()))
        for i, value in values.items():
          found[i][turn] = value - mean
  return [
    np.repeat(values, summary.segments).astype(np.float32)
    for values, summary in zip(found, summaries, strict=True)
  ]


def tree_zscore(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """The mean of `group_zscore` over the rollouts that share a segment: what a node is worth.

  For trees (`rollout.leaves`): a segment that several rollouts share has the mean of their scores,
  as Tree-GRPO's nodes have (arXiv 2509.21240); its second normalisation inside each tree is left
  out. Without sharing it is `group_zscore`. By hand: scores -1, 0, 1 of rollouts of which the last
  two share their first segment give it 0.5.
  """
  del rng
  rewards = [_reward(s) for s in summaries]
  found = [np.zeros(len(s.segments)) for s in summaries]
  for members in _groups(summaries):
    scores = dict(zip(members, _scores([members], rewards, _zscore)[members], strict=True))
    nodes: dict[tuple[int, ...], list[int]] = {}
    for i in members:
      for k in range(len(summaries[i].segments)):
        nodes.setdefault(summaries[i].owners[: k + 1], []).append(i)
    for path, through in nodes.items():
      for i in through:
        found[i][len(path) - 1] = np.mean([scores[j] for j in through])
  return [
    np.repeat(values, summary.segments).astype(np.float32)
    for values, summary in zip(found, summaries, strict=True)
  ]


def shuffled_group_zscore(
  summaries: Sequence[Summary], rng: np.random.Generator
) -> list[np.ndarray]:
  """`group_zscore` after the rewards were permuted over the whole batch: a control.

  Same rewards, same spread, no relation to what was done: whatever is learned from it is not
  learned from the reward.
  """
  # Permuted in the order of names, so that the split over hosts does not matter.
  kept = [i for i, s in enumerate(summaries) if not s.is_infra]
  kept.sort(key=lambda i: (summaries[i].position, summaries[i].sample))
  rewards = [_reward(s) for s in summaries]
  for i, source in zip(kept, rng.permutation(kept), strict=True):
    rewards[i] = _reward(summaries[source])
  return _spread(summaries, _scores(_groups(summaries), rewards, _zscore))


def _reward(summary: Summary) -> float:
  return 0.0 if summary.is_infra else float(summary.rewards['reward'])


def _grouped(
  summaries: Sequence[Summary], score: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
  rewards = [_reward(s) for s in summaries]
  return _spread(summaries, _scores(_groups(summaries), rewards, score))


def _groups(
  summaries: Sequence[Summary], by: Callable[[Summary], tuple[int, ...]] = lambda s: ()
) -> list[list[int]]:
  """Indices of the rollouts of each question (and of equal `by`), lost ones left out."""
  groups: dict[tuple[int, ...], list[int]] = {}
  for i, summary in enumerate(summaries):
    if not summary.is_infra:
      groups.setdefault((summary.host, summary.position, *by(summary)), []).append(i)
  return list(groups.values())


def _scores(
  groups: Sequence[Sequence[int]],
  rewards: Sequence[float],
  score: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """float64 [rollouts]: `score` of each group's rewards; 0 for equal rewards and groups of one."""
  scores = np.zeros(len(rewards))
  for members in groups:
    values = np.array([rewards[i] for i in members], np.float64)
    # Compared, not computed: the mean of equal numbers may differ from them in the last bit.
    if not np.all(values == values[0]):
      scores[members] = score(values)
  return scores


def _spread(summaries: Sequence[Summary], scores: Sequence[float]) -> list[np.ndarray]:
  """One number per rollout -> one per policy token."""
  return [
    np.full(sum(summary.segments), score, np.float32)
    for summary, score in zip(summaries, scores, strict=True)
  ]


def _returns(summary: Summary) -> np.ndarray:
  turns = [summary.rewards.get(f'turn/{k}', 0.0) for k in range(len(summary.segments))]
  return np.cumsum(turns[::-1])[::-1]


def _zscore(rewards: np.ndarray) -> np.ndarray:
  return (rewards - rewards.mean()) / (rewards.std(ddof=1) + _EPSILON)
