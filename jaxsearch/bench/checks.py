"""What a comparison must show if the methods are what they say, each with its measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxsearch.bench import outcome as outcomes
from jaxsearch.bench.outcome import Outcome

Runs = Mapping[str, Mapping[int, Outcome]]
# Outcomes of the recipes that are needed, seed by seed, and exact match of each seed's start ->
# what is claimed, what was measured, whether it is so.
Made = Sequence[Sequence[Outcome]]
Check = Callable[[Made, Sequence[float]], tuple[str, str, bool]]
# More than this is not chance: about twice the standard error of 240 questions.
_CHANCE = 0.05


def table(runs: Runs, before: Mapping[int, float], plain: str) -> str:
  """A Markdown table of every check whose runs are there.

  Args:
    runs: recipe -> seed -> outcome.
    before: exact match of each seed's start.
    plain: name of the recipe that others are compared with.
  """
  lines = ['| what must be seen | measured | seen |', '|---|---|---|']
  for needed, check in _CHECKS:
    made = [runs.get(name.format(plain=plain), {}) for name in needed]
    seeds = sorted(set.intersection(*(set(m) for m in made)))
    if seeds:
      outcomes_by_seed = [[m[s] for s in seeds] for m in made]
      claim, measured, is_seen = check(outcomes_by_seed, [before[s] for s in seeds])
      lines.append(f'| {claim} | {measured} | {"yes" if is_seen else "**no**"} |')
  return '\n'.join(lines) + '\n'


def _learns_nothing(claim: str) -> Check:
  def check(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
    after = [one.em for one in made[0]]
    measured = f'exact match {outcomes.spread(before)} before, {outcomes.spread(after)} after'
    return claim, measured, np.mean(after) <= np.mean(before) + _CHANCE

  return check


def _drifts(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  # Of samples: a greedy answer near the border between answering and searching tips over by chance.
  del before
  thirds = [
    [[np.mean(part) for part in np.array_split(one.sampled_em, 3)] for one in some] for some in made
  ]
  (plain_first, plain_last), (first, last) = (
    [[parts[end] for parts in some] for end in (0, -1)] for some in thirds
  )
  return (
    'with rewards shuffled nothing is learnt',
    f'exact match of samples {outcomes.spread(first)} in the first third of the training, '
    f'{outcomes.spread(last)} in the last; with plain GRPO {outcomes.spread(plain_first)} and '
    f'{outcomes.spread(plain_last)}',
    np.mean(last) - np.mean(first) <= _CHANCE < np.mean(plain_last) - np.mean(plain_first),
  )


def _reads_less(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  plain, random = ([one.em_by_hops['3'] for one in some] for some in made)
  return (
    'with random documents and F1, which pays half a name, no chain of three is learnt',
    f'exact match at 3 hops {outcomes.spread(random)}, with plain GRPO {outcomes.spread(plain)}',
    np.mean(random) <= _CHANCE < np.mean(plain),
  )


def _signal(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  plain, igpo = ([one.signal_all_wrong for one in some] for some in made)
  return (
    'IGPO gives signal to groups in which every rollout failed',
    f'of their rollouts {outcomes.spread(igpo)} have an advantage other than 0, with plain GRPO '
    f'{outcomes.spread(plain)}',
    np.mean(igpo) > np.mean(plain),
  )


def _noise(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  rising, fixed = ([one.em for one in some] for some in made)
  gain, chance = outcomes.gain(*made)
  return (
    "ZeroSearch's rising noise beats the same noise throughout, on the clean retriever",
    f'exact match {outcomes.spread(rising)}, fixed {outcomes.spread(fixed)}: {gain:+.2f} ± '
    f'{chance:.2f}',
    gain > chance,
  )


def _searching(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  first, last = ([one.dev_searches[end] for one in made[0]] for end in (0, -1))
  return (
    "R1-Searcher's first stage raises searches without a reward for answers",
    f'per dev question {outcomes.spread(first)} before it, {outcomes.spread(last)} after',
    min(np.subtract(last, first)) > 0,
  )


def _answering(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  first, last = ([one.dev_f1[end] for one in made[0]] for end in (0, -1))
  return (
    'its second raises F1',
    f'on dev {outcomes.spread(first)} before it, {outcomes.spread(last)} after',
    min(np.subtract(last, first)) > 0,
  )


def _sharing(made: Made, before: Sequence[float]) -> tuple[str, str, bool]:
  del before
  plain, trees = ([one.generated / one.rollouts for one in some] for some in made)
  held = [one.held / one.generated for one in made[1]]
  return (
    'in trees fewer tokens are generated per trained row; a shared beginning is trained once',
    f'{outcomes.spread(trees, 0)} tokens a row, with plain GRPO {outcomes.spread(plain, 0)}; the '
    f'rows of trees hold {outcomes.spread(held)} times what was generated and trained',
    np.mean(trees) < np.mean(plain) and np.mean(held) > 1,
  )


_CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
  (('{plain}', 'shuffled_rewards'), _drifts),
  (
    ('random_documents_exact',),
    _learns_nothing('with random documents, of which exact match pays none, nothing is learnt'),
  ),
  (('{plain}', 'random_documents'), _reads_less),
  (('{plain}', 'igpo'), _signal),
  (('zero_search', 'fixed_noise'), _noise),
  (('r1_searcher',), _searching),
  (('r1_searcher',), _answering),
  (('{plain}', 'trees'), _sharing),
)
