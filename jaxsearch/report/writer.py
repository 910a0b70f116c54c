"""Writes report.html and summary.json of a run and prints what a person wants to see first."""

from __future__ import annotations

import json
import os
from typing import Any

from jaxsearch.report import page, terminal
from jaxsearch.report import run as run_on_disk


def write(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
  """Writes `report.html` and `summary.json` into `run_dir` and prints the table and a trajectory.

  Returns:
    What summary.json holds: eval_before, eval_after, seconds, peak_rss_mb, seed; what the run has
    not written is null or empty.
  """
  run = run_on_disk.load(run_dir)
  summary = {
    'eval_before': run.before,
    'eval_after': run.after,
    'seconds': run.seconds,
    'peak_rss_mb': run.peak_rss_mb,
    'seed': run.seed,
  }
  _replace(os.path.join(run_dir, 'summary.json'), json.dumps(summary, indent=2) + '\n')
  title = f'jaxsearch: {os.path.normpath(os.fspath(run_dir))}'
  _replace(os.path.join(run_dir, 'report.html'), page.render(run, title))
  terminal.print_run(run)
  print(f'wrote {os.path.join(run_dir, "report.html")} and summary.json')
  return summary


def _replace(path: str, text: str) -> None:
  with open(f'{path}.partial', 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(f'{path}.partial', path)
