"""Several runs in one picture: ablations as bars, seeds as curves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from jaxsearch.report import figures
from jaxsearch.report import run as runs_on_disk
from jaxsearch.types import UserError


def bars(runs: Mapping[str, str], out: str) -> None:
  """Writes a PNG: held-out exact match over 1 to 3 hops of each run, above it the start.

  Intervals are 1.96 standard errors of the share.

  Args:
    runs: name -> run directory with eval_after/; the first with eval_before/ gives the start.
    out: PNG file.

  Raises:
    UserError: names the runs without an evaluation.
  """
  loaded = {name: runs_on_disk.load(folder) for name, folder in runs.items()}
  missing = [f'{name} ({runs[name]})' for name, run in loaded.items() if not run.after]
  if missing:
    raise UserError(
      f'no eval_after/summary.json in {", ".join(missing)}; run `jaxsearch eval` with '
      '--out=RUN/eval_after first.'
    )
  starts = [('before', run.before) for run in loaded.values() if run.before][:1]
  summaries = starts + [(name, run.after) for name, run in loaded.items()]
  rows = []
  for name, summary in summaries:
    share, n = runs_on_disk.pooled(summary)
    rows.append((name.replace('_', ' '), share, 1.96 * math.sqrt(share * (1 - share) / max(n, 1))))

  def draw(axes: list) -> None:
    figures.interval_bars(axes[0], rows)
    axes[0].set_title('exact match on held-out questions of 1 to 3 hops')

  _make_folder(out)
  figures.png(draw, out, columns=1)


def curves(runs: Mapping[str, str], out: str) -> None:
  """Writes a PNG: exact match on dev over the steps, a panel per number of hops, a line per run.

  Raises:
    UserError: names the runs without validations.
  """
  loaded = {name: runs_on_disk.load(folder) for name, folder in runs.items()}
  by_hops = {name: runs_on_disk.series(run, 'val/em_by_hops/') for name, run in loaded.items()}
  missing = [f'{name} ({runs[name]})' for name, series in by_hops.items() if not series]
  if missing:
    raise UserError(f'no validations in metrics.jsonl of {", ".join(missing)}; train first.')
  hops = sorted({h for series in by_hops.values() for h in series})

  def draw(axes: list) -> None:
    for axis, h in zip(axes, hops, strict=True):
      shown = {name.replace('_', ' '): s[h] for name, s in by_hops.items() if h in s}
      figures.lines(axis, shown, share=True)
      axis.set_title(f'{h} hop' if h == '1' else f'{h} hops', loc='right')
      if axis is not axes[0]:
        axis.get_legend().remove()
    axes[0].set_ylabel('exact match on dev')

  _make_folder(out)
  figures.png(draw, out, columns=len(hops))


def _make_folder(out: str) -> None:
  os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
