"""Which rollouts are trained, chosen by name (`algo.selector`).

A selector maps the summaries of every host's rollouts to one bool per rollout, equal on every host.
What is left out is in no gradient and no denominator; the rewards of what is left out still count
in the advantages of its group.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxsearch.algo.summary import Summary
from jaxsearch.types import Status

_CAPS = (Status.TURN_CAP, Status.POLICY_TOKEN_CAP, Status.CONTEXT_CAP)


def every(summaries: Sequence[Summary]) -> list[bool]:
  """All of them."""
  return [True] * len(summaries)


def unless_capped(summaries: Sequence[Summary]) -> list[bool]:
  """Those that ended by themselves (over-turn masking, Mini-o3, arXiv 2509.07969).

  A rollout that ran out of searches or tokens is not evidence against what it did, and punishing it
  teaches to search less; it is not trained.
  """
  return [s.status not in _CAPS for s in summaries]


def if_unequal(summaries: Sequence[Summary]) -> list[bool]:
  """Those whose question has rollouts of unequal reward (DAPO, arXiv 2503.14476, eq. 11).

  The others have no advantage; here they are out of the loss's denominator as well. With
  `algo.rounds` above 1 further questions are asked in their place.
  """
  rewards: dict[tuple[int, int], set[float]] = {}
  for s in summaries:
    if not s.is_infra:
      rewards.setdefault((s.host, s.position), set()).add(s.rewards['reward'])
  return [len(rewards.get((s.host, s.position), ())) > 1 for s in summaries]


def deepest_half(summaries: Sequence[Summary]) -> list[bool]:
  """Of each question's rollouts, the half that searched most (CuSearch, arXiv 2605.11611).

  Ties go to the earlier sample; of an odd number the larger half is kept.
  """
  kept: set[tuple[int, int, int]] = set()
  groups: dict[tuple[int, int], list[Summary]] = {}
  for s in summaries:
    if not s.is_infra:
      groups.setdefault((s.host, s.position), []).append(s)
  for name, group in groups.items():
    ordered = sorted(group, key=lambda s: (-s.searches, s.sample))
    kept |= {(*name, s.sample) for s in ordered[: -(-len(group) // 2)]}
  return [(s.host, s.position, s.sample) in kept for s in summaries]
