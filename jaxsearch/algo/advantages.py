"""Advantages: from the rewards of the whole batch to one number per policy token.

An estimator maps (summaries, rng) to one float32 array [policy_tokens] per summary, in the same
order. `summaries` are those of every host; `rng` is the same on every host, so all agree. Rewards
of rollouts that the infrastructure lost are never read, and their arrays are zero.

GRPO (arXiv 2402.03300, section 4.1.2) gives every token of a rollout its rollout's z-score. Left
out: its process-supervision variant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsearch.types import Summary

_EPSILON = 1e-6


def group_zscore(summaries: Sequence[Summary], rng: np.random.Generator) -> list[np.ndarray]:
  """(reward - mean) / (std + 1e-6) over the rollouts of one question, std with n - 1, in float64.

  By hand: rewards 0, 1, 1 have mean 2/3 and std 0.57735, so the advantages are -1.1547, 0.57735
  twice. Equal rewards and a group of one give exactly 0 (ReSearch's code keeps the raw reward of
  a group of one).
  """
  del rng
  return _group_zscore(summaries, [_reward(s) for s in summaries])


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
  return _group_zscore(summaries, rewards)


def _reward(summary: Summary) -> float:
  return 0.0 if summary.is_infra else float(summary.rewards['reward'])


def _group_zscore(summaries: Sequence[Summary], rewards: Sequence[float]) -> list[np.ndarray]:
  groups: dict[tuple[int, int], list[int]] = {}
  for i, summary in enumerate(summaries):
    if not summary.is_infra:
      groups.setdefault((summary.host, summary.position), []).append(i)
  scores = np.zeros(len(summaries))
  for members in groups.values():
    scores[members] = _zscore(np.array([rewards[i] for i in members], np.float64))
  return [
    np.full(summary.policy_tokens, score, np.float32)
    for summary, score in zip(summaries, scores, strict=True)
  ]


def _zscore(rewards: np.ndarray) -> np.ndarray:
  # Compared rather than computed: the mean of equal numbers may differ from them in the last bit.
  if len(rewards) < 2 or np.all(rewards == rewards[0]):
    return np.zeros(len(rewards))
  return (rewards - rewards.mean()) / (rewards.std(ddof=1) + _EPSILON)
