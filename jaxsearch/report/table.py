"""Recipes side by side in a Markdown table, means over their seeds; no figure is typed by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsearch.report import run as runs_on_disk
from jaxsearch.types import UserError

_COLUMNS = (
  'recipe',
  'seeds',
  'EM, 1 to 3 hops',
  'EM, 4 hops',
  'searches, 3 hops',
  'malformed',
  'rollouts with a signal',
  'tokens generated',
  'of trained rows',
  'minutes',
)


def table(runs: Sequence[tuple[str, str]], out: str) -> None:
  """Writes one row a recipe: mean ± standard deviation (n - 1) over its runs.

  Generated are the tokens that were sampled in training; the rows trained on hold more of them
  where rollouts share a beginning.

  Args:
    runs: (recipe, run directory with eval_after/); several of a recipe are its seeds.
    out: Markdown file.

  Raises:
    UserError: names the runs without an evaluation.
  """
  loaded = [(name, folder, runs_on_disk.load(folder)) for name, folder in runs]
  missing = [f'{name} ({folder})' for name, folder, run in loaded if not run.after]
  if missing:
    raise UserError(
      f'no eval_after/summary.json in {", ".join(missing)}; run `jaxsearch eval` with '
      '--out=RUN/eval_after first.'
    )
  grouped: dict[str, list[Mapping[str, float]]] = {}
  for name, _, run in loaded:
    grouped.setdefault(name, []).append(_figures(run))
  lines = [f'| {" | ".join(_COLUMNS)} |', '|' + '---|' * len(_COLUMNS)]
  lines += [_row(name, figures) for name, figures in grouped.items()]
  os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
  with open(out, 'w', encoding='utf-8') as file:
    file.write('\n'.join(lines) + '\n')


def _figures(run: runs_on_disk.Run) -> dict[str, float]:
  trained = [line for line in run.metrics if 'group/rollouts' in line]
  rollouts = np.array([line['group/rollouts'] for line in trained])
  mean = lambda name: np.array([line.get(name, np.nan) for line in trained])
  return {
    'em': runs_on_disk.pooled(run.after)[0],
    'em4': run.after['em_by_hops'].get('4', np.nan),
    'searches': run.after['searches_by_hops'].get('3', np.nan),
    'malformed': run.after['malformed'],
    'signal': float(np.mean(mean('group/frac_with_signal'))) if trained else np.nan,
    'generated': float(np.sum(rollouts * mean('length/generated_mean'))) if trained else np.nan,
    'held': float(np.sum(rollouts * mean('length/policy_tokens_mean'))) if trained else np.nan,
    'minutes': run.seconds.get('train', np.nan) / 60,
  }


def _row(name: str, seeds: Sequence[Mapping[str, float]]) -> str:
  def shown(key: str, digits: int = 2, scale: float = 1.0) -> str:
    values = np.array([figures[key] for figures in seeds]) / scale
    spread = f' ± {values.std(ddof=1):.{digits}f}' if len(values) > 1 else ''
    return '–' if np.isnan(values).all() else f'{values.mean():.{digits}f}{spread}'

  cells = [
    name.replace('_', ' '),
    str(len(seeds)),
    shown('em'),
    shown('em4'),
    shown('searches'),
    shown('malformed', 3),
    shown('signal'),
    f'{shown("generated", 0, 1000)} k',
    f'{shown("held", 0, 1000)} k',
    shown('minutes', 1),
  ]
  return '| ' + ' | '.join(cells) + ' |'
