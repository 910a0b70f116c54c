"""What one run of the comparison came to, read from its folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxsearch.report import run as runs_on_disk


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One recipe with one seed.

  Attributes:
    em, searches, malformed: over all test questions, greedy, on the real retriever.
    em_by_hops: hops -> exact match.
    questions: in the test.
    generated: tokens sampled in training.
    held: tokens of the trained rows: more than were generated where rollouts share a beginning.
    rollouts: made in training.
    signal, signal_all_wrong: metrics.signal, averaged over the rollouts.
    minutes: wall time of training, with its start.
    curve: (tokens generated so far, exact match on dev).
    sampled_em: exact match of the rollouts of each step, at the temperature of training.
    dev_searches: per dev question, of the first phase, in order; hops count alike.
    dev_f1: F1 on dev of the last phase, in order.
  """

  em: float
  searches: float
  malformed: float
  em_by_hops: dict[str, float]
  questions: int
  generated: float
  held: float
  rollouts: float
  signal: float
  signal_all_wrong: float
  minutes: float
  curve: tuple[tuple[float, float], ...]
  sampled_em: tuple[float, ...]
  dev_searches: tuple[float, ...]
  dev_f1: tuple[float, ...]


def read(folders: Sequence[str]) -> Outcome | None:
  """The outcome of a run whose phases wrote to `folders`; None if it is not finished."""
  phases = [runs_on_disk.load(folder) for folder in folders]
  last = phases[-1]
  if not last.after:
    return None
  trained = [line for phase in phases for line in phase.metrics if 'group/rollouts' in line]
  rollouts = np.array([line['group/rollouts'] for line in trained])
  column = lambda name: np.array([line.get(name, math.nan) for line in trained])
  ends = [phase.metrics[-1]['progress/generated_tokens'] for phase in phases]
  offsets = np.cumsum([0.0, *ends[:-1]])
  curve = [
    (float(offset + line['progress/generated_tokens']), line['val/em'])
    for offset, phase in zip(offsets, phases, strict=True)
    for line in phase.metrics
    if 'val/em' in line
  ]
  return Outcome(
    em=last.after['em'],
    searches=last.after['searches'],
    malformed=last.after['malformed'],
    em_by_hops=last.after['em_by_hops'],
    questions=last.after['n'],
    generated=float(sum(ends)),
    held=float(np.sum(rollouts * column('length/policy_tokens_mean'))),
    rollouts=float(np.sum(rollouts)),
    signal=_mean(column('group/frac_with_signal'), rollouts),
    signal_all_wrong=_mean(column('group/frac_with_signal_all_wrong'), rollouts),
    # A run that was killed wrote its steps down, but not what it cost.
    minutes=max(last.seconds.get('train', 0.0), float(np.sum(column('timing_s/step')))) / 60,
    curve=tuple(curve),
    sampled_em=tuple(column('reward/em/mean').tolist()),
    dev_searches=tuple(
      float(np.mean([v for name, v in line.items() if name.startswith('val/searches_by_hops/')]))
      for line in phases[0].metrics
      if 'val/em' in line
    ),
    dev_f1=tuple(line['val/f1'] for line in last.metrics if 'val/f1' in line),
  )


def gain(made: Sequence[Outcome], plain: Sequence[Outcome]) -> tuple[float, float]:
  """(mean difference in exact match, two standard errors of it), seed by seed.

  The error is the larger of what the seeds show and what the draw of the questions alone makes.
  """
  gains = np.array([one.em - other.em for one, other in zip(made, plain, strict=True)])
  drawn = 2 * np.mean([one.em * (1 - one.em) / one.questions for one in (*made, *plain)])
  seen = gains.var(ddof=1) if len(gains) > 1 else 0.0
  return float(gains.mean()), float(2 * np.sqrt(max(drawn, seen) / len(gains)))


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
  """Over the steps that have a value."""
  known = ~np.isnan(values)
  return float(np.average(values[known], weights=weights[known])) if known.any() else math.nan


def spread(values: Sequence[float], digits: int = 2) -> str:
  """Mean ± standard deviation (n - 1)."""
  shown = f'{np.mean(values):.{digits}f}' if len(values) else '–'
  return shown + (f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else '')
