"""What a run measures and where it is written down.

Names follow those that users of the PyTorch systems know: reward/, group/, search/, episode/,
length/, actor/, mismatch/, timing_s/ and perf/. One JSON line a step and TensorBoard events.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorboardX

from jaxsearch.algo.summary import Summary
from jaxsearch.types import Kind, Outcome, Status, Trajectory, Turn

_TERMINATIONS = {
  Status.TURN_CAP: 'turn_cap',
  Status.POLICY_TOKEN_CAP: 'token_cap',
  Status.CONTEXT_CAP: 'token_cap',
  Status.INFRA: 'infra',
}


class MetricWriter:
  """Appends the metrics of each step to `metrics.jsonl` and to TensorBoard events.

  On resume it forgets what a lost continuation of the run had written: every line of
  `resume_step` and later, and a torn last line.
  """

  def __init__(self, run_dir: str | os.PathLike[str], resume_step: int = 0):
    os.makedirs(run_dir, exist_ok=True)
    path = os.path.join(run_dir, 'metrics.jsonl')
    kept = [line for line in read(run_dir) if line['step'] < resume_step]
    with open(f'{path}.partial', 'w', encoding='utf-8') as file:
      file.writelines(json.dumps(line) + '\n' for line in kept)
    os.replace(f'{path}.partial', path)
    self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (closed by close)
    self._events = tensorboardX.SummaryWriter(
      os.path.join(run_dir, 'tensorboard'), purge_step=resume_step, write_to_disk=True
    )

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one line and the events of one step; the line is on its way to disk on return."""
    line = {'step': int(step)} | {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(name, float(value), step)

  def close(self) -> None:
    """Closes both; nothing is written afterwards."""
    self._file.close()
    self._events.close()


def read(run_dir: str | os.PathLike[str]) -> list[dict[str, float]]:
  """The lines of `metrics.jsonl` in order; a torn last line and a missing file are nothing."""
  path = os.path.join(run_dir, 'metrics.jsonl')
  if not os.path.exists(path):
    return []
  lines = []
  with open(path, encoding='utf-8') as file:
    for line in file:
      if line.endswith('\n'):
        lines.append(json.loads(line))
  return lines


class Clock:
  """Seconds per verb of one step; `with clock('gen'): …` adds to `timing_s/gen`."""

  def __init__(self) -> None:
    self._start = time.monotonic()
    self._seconds: dict[str, float] = collections.defaultdict(float)

  @contextlib.contextmanager
  def __call__(self, verb: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    self._seconds[f'timing_s/{verb}'] += time.monotonic() - start

  def seconds(self) -> dict[str, float]:
    """Of each verb, and of the whole step so far."""
    return {**self._seconds, 'timing_s/step': time.monotonic() - self._start}


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
  """Figures of the scored trajectories of one step.

  Trajectories that the infrastructure lost are counted in `episode/termination/infra` and in
  `episode/infra_by_searches/*`, and left out of everything else. Rates over turns are 0 when
  nothing was searched.
  """
  kept = [t for t in trajectories if not t.is_infra]
  return (
    _rewards(kept)
    | _groups(trajectories, kept)
    | _searches(kept)
    | _episodes(trajectories, kept)
    | _lengths(kept)
  )


def signal(summaries: Sequence[Summary], advantages: Sequence[Any]) -> dict[str, float]:
  """Shares of rollouts that are trained with an advantage other than 0.

  group/frac_with_signal: of all; group/frac_with_signal_all_wrong: of those whose question no
  rollout answered exactly, where outcome rewards have least to say; left out if there are none.
  """
  right = {(s.host, s.position) for s in summaries if s.rewards.get('em', 0.0) > 0}
  speaks = [a is not None and bool(np.any(a)) for a in advantages]
  wrong = [x for s, x in zip(summaries, speaks) if (s.host, s.position) not in right]
  found = {'group/frac_with_signal': _mean(speaks)}
  return found | ({'group/frac_with_signal_all_wrong': _mean(wrong)} if wrong else {})


def over_hosts(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The same figures of several hosts as one: the longest seconds, mean shares, summed counts."""
  merged = {}
  for name in sorted({name for host in figures for name in host}):
    values = [host[name] for host in figures if name in host]
    is_seconds = '_s/' in name  # timing_s/…, search/latency_s/…
    merge = max if is_seconds else _mean if name.startswith('perf/') else sum
    merged[name] = float(merge(values))
  return merged


def over_updates(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Means over the updates of one batch of rollouts.

  The gap to the sampler's log-probabilities is that of the first: later ones have moved on purpose.
  """
  means = {name: _mean([update[name] for update in figures]) for name in figures[0]}
  return means | {name: v for name, v in figures[0].items() if name.startswith('mismatch/')}


def progress(step: int, steps: int, values: Mapping[str, float]) -> str:
  """One line that a person can read while the run goes on."""
  columns = [
    ('reward/mean', 'reward {:.3f}'),
    ('reward/em/mean', 'em {:.3f}'),
    ('search/calls_mean', 'searches {:.2f}'),
    ('length/policy_tokens_mean', 'tokens {:.0f}'),
    ('actor/entropy', 'entropy {:.3f}'),
    ('mismatch/logp_absdiff_max', 'gap {:.0e}'),
    ('val/em', 'dev em {:.3f}'),
    ('timing_s/step', '{:.1f} s'),
    ('perf/throughput', '{:.0f} tokens/s'),
  ]
  shown = [text.format(values[name]) for name, text in columns if name in values]
  return '  '.join([f'step {step:>4}/{steps}', *shown])


def _rewards(kept: Sequence[Trajectory]) -> dict[str, float]:
  values = [t.rewards.get('reward', 0.0) for t in kept] or [0.0]
  metrics = {
    'reward/mean': float(np.mean(values)),
    'reward/std': float(np.std(values)),
    'reward/max': float(np.max(values)),
    'reward/min': float(np.min(values)),
  }
  for name in sorted({name for t in kept for name in t.rewards} - {'reward'}):
    metrics[f'reward/{name}/mean'] = _mean([t.rewards.get(name, 0.0) for t in kept])
  return metrics


def _groups(all_: Sequence[Trajectory], kept: Sequence[Trajectory]) -> dict[str, float]:
  groups: dict[int, list[Trajectory]] = collections.defaultdict(list)
  for t in kept:
    groups[t.task.position].append(t)
  rewards = [{t.rewards.get('reward', 0.0) for t in group} for group in groups.values()]
  correct = [_mean([t.rewards.get('em', 0.0) for t in group]) for group in groups.values()]
  return {
    'group/rollouts': float(len(all_)),
    'group/frac_zero_std': _mean([len(values) == 1 for values in rewards]),
    'group/frac_all_correct': _mean([share == 1 for share in correct]),
    'group/frac_all_wrong': _mean([share == 0 for share in correct]),
  }


def _searches(kept: Sequence[Trajectory]) -> dict[str, float]:
  turns = [turn for t in kept for turn in t.turns]
  calls = [len(t.turns) for t in kept]
  queries = [[query for turn in t.turns for query in turn.queries] for t in kept]
  repeated = sum(len(asked) - len(set(asked)) for asked in queries)
  bad = [turn.outcome is Outcome.BAD_QUERY for turn in turns]
  finished = sum(_is_answered(t) for t in kept)
  supported = [t for t in kept if t.task.question.metadata.get('supporting_documents')]
  metrics = {
    'search/calls_mean': _mean(calls),
    'search/calls_max': float(max(calls, default=0)),
    'search/frac_no_search': _mean([n == 0 for n in calls]),
    'search/valid_action_ratio': (len(turns) - sum(bad) + finished)
    / max(len(turns) + len(kept), 1),
    'search/empty_query_rate': _mean(
      [not any(query.strip() for query in turn.queries) for turn in turns]
    ),
    'search/duplicate_query_rate': repeated / max(sum(map(len, queries)), 1),
    'search/empty_result_rate': _mean([turn.outcome is Outcome.EMPTY for turn in turns]),
    'search/error_rate': _mean([turn.outcome.is_infra for turn in turns]),
    'search/truncated_obs_rate': _mean([_is_shortened(turn) for turn in turns]),
    'search/gold_in_docs_rate': _mean([_gold_share(t) for t in supported]),
  }
  for outcome in Outcome:
    metrics[f'search/outcome/{outcome}'] = float(sum(turn.outcome is outcome for turn in turns))
  return metrics


def _episodes(all_: Sequence[Trajectory], kept: Sequence[Trajectory]) -> dict[str, float]:
  ends = collections.Counter(
    _TERMINATIONS.get(t.status) or ('answer' if _is_answered(t) else 'invalid') for t in all_
  )
  lost = collections.Counter(min(len(t.turns), 3) for t in all_ if t.is_infra)
  turns = [len(t.turns) + 1 for t in kept]
  names = ('answer', 'turn_cap', 'token_cap', 'invalid', 'infra')
  return {
    'episode/turns_mean': _mean(turns),
    'episode/turns_max': float(max(turns, default=0)),
    'episode/finish_ratio': _mean([t.status in (Status.EOS, Status.ANSWER) for t in kept]),
    **{f'episode/termination/{name}': ends[name] / max(len(all_), 1) for name in names},
    **{
      f'episode/infra_by_searches/{n}': lost[n] / max(len(all_), 1) for n in range(4)
    },  # 3: three or more.
  }


def _lengths(kept: Sequence[Trajectory]) -> dict[str, float]:
  policy = [sum(context.count(Kind.POLICY) for context in t.contexts) for t in kept]
  observed = [sum(context.count(Kind.OBSERVATION) for context in t.contexts) for t in kept]
  total = [sum(context.length for context in t.contexts) for t in kept]
  metrics = {}
  for name, values in [
    ('policy_tokens', policy),
    ('observation_tokens', observed),
    ('total', total),
  ]:
    metrics[f'length/{name}_mean'] = _mean(values)
    metrics[f'length/{name}_max'] = float(max(values, default=0))
  caps = (Status.POLICY_TOKEN_CAP, Status.CONTEXT_CAP)
  metrics['length/generated_mean'] = _mean([t.generated for t in kept])
  metrics['length/clip_ratio'] = _mean([t.status in caps for t in kept])
  metrics['length/observation_share'] = sum(observed) / max(sum(observed) + sum(policy), 1)
  return metrics


def _is_answered(t: Trajectory) -> bool:
  return t.status in (Status.EOS, Status.ANSWER) and t.rewards.get('format', 0.0) > 0


def _is_shortened(turn: Turn) -> bool:
  return turn.shown < max((len(documents) for documents in turn.documents), default=0)


def _gold_share(t: Trajectory) -> float:
  """Share of the supporting documents that the policy was shown."""
  gold = {str(name) for name in t.task.question.metadata['supporting_documents']}
  seen = {d.id for turn in t.turns for docs in turn.documents for d in docs[: turn.shown]}
  return len(gold & seen) / len(gold)


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if len(values) else 0.0
