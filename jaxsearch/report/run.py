"""A run directory as read from disk; what is not there is empty."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch import metrics, trajectories


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run has written so far.

  Attributes:
    metrics: lines of metrics.jsonl.
    before, after: summary.json of eval_before/ and eval_after/.
    dev: step -> file of the records of the validation at that step.
    seconds: wall time per verb, with `total`.
    peak_rss_mb: largest of all verbs; None if it was not measured.
    seed: of the configuration; None if the run has not started.
  """

  metrics: Sequence[Mapping[str, float]]
  before: Mapping[str, Any]
  after: Mapping[str, Any]
  dev: Mapping[int, str]
  seconds: Mapping[str, float]
  peak_rss_mb: float | None
  seed: int | None


def load(run_dir: str | os.PathLike[str]) -> Run:
  """Reads a run directory."""
  usage_path = os.path.join(run_dir, 'usage.jsonl')
  usage = trajectories.read(usage_path) if os.path.exists(usage_path) else []
  seconds: dict[str, float] = collections.defaultdict(float)
  for line in usage:
    seconds[line['verb']] += line['seconds']
  if usage:
    seconds['total'] = sum(line['seconds'] for line in usage)
  return Run(
    metrics=metrics.read(run_dir),
    before=_json(os.path.join(run_dir, 'eval_before', 'summary.json')),
    after=_json(os.path.join(run_dir, 'eval_after', 'summary.json')),
    dev=_dev(os.path.join(run_dir, 'trajectories')),
    seconds={verb: round(value, 1) for verb, value in seconds.items()},
    peak_rss_mb=max((line['peak_rss_mb'] for line in usage), default=None),
    seed=_json(os.path.join(run_dir, 'config.json')).get('seed'),
  )


def series(run: Run, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
  """Metrics whose name starts with `prefix`: rest of the name -> (steps, values)."""
  found: dict[str, tuple[list[int], list[float]]] = {}
  for line in run.metrics:
    for name, value in line.items():
      if name.startswith(prefix):
        steps, values = found.setdefault(name.removeprefix(prefix), ([], []))
        steps.append(int(line['step']))
        values.append(value)
  return dict(sorted(found.items()))


def pooled(summary: Mapping[str, Any], hops: Sequence[str] = ('1', '2', '3')) -> tuple[float, int]:
  """(exact match, questions) over the questions of `hops` together; all if hops are unknown."""
  counts = {h: n for h, n in summary.get('n_by_hops', {}).items() if h in hops}
  total = sum(counts.values())
  if not total:
    return summary['em'], summary['n']
  return sum(summary['em_by_hops'][h] * n for h, n in counts.items()) / total, total


def story(run: Run) -> list[tuple[str, trajectories.Record]]:
  """One dev question before, half-way and after: (label, record).

  Of the questions answered at the end, and rather not at the start, the one of most hops.
  """
  steps = sorted(run.dev)
  if not steps:
    return []
  chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
  by_id = [{r['id']: r for r in trajectories.read(run.dev[step])} for step in chosen]
  shared = set.intersection(*(set(records) for records in by_id))
  if not shared:
    return []

  def merit(name: str) -> tuple[bool, bool, int, int, str]:
    first, last = by_id[0][name], by_id[-1][name]
    hops = int(last['metadata'].get('hops', 0))
    return is_right(last), not is_right(first), hops, len(last['turns']), name

  best = max(shared, key=merit)
  labels = {1: ['so far'], 2: ['before', 'after'], 3: ['before', 'half-way', 'after']}[len(chosen)]
  return [
    (f'{label} (step {step})', records[best])
    for label, step, records in zip(labels, chosen, by_id, strict=True)
  ]


def is_right(record: trajectories.Record) -> bool:
  """Whether the answer matches exactly."""
  return record['rewards'].get('em', 0) > 0


def _dev(folder: str) -> dict[int, str]:
  if not os.path.isdir(folder):
    return {}
  found = ((re.fullmatch(r'dev_(\d+)\.jsonl', name), name) for name in os.listdir(folder))
  return {int(match.group(1)): os.path.join(folder, name) for match, name in found if match}


def _json(path: str) -> dict[str, Any]:
  if not os.path.exists(path):
    return {}
  with open(path, encoding='utf-8') as file:
    return json.load(file)
