"""`jaxsearch bench step`: the loop of training with random weights: weights over, rollout, update.

What is rolled out is a replayed trace; what is trained are rows of random tokens of one length, so
that the work is known. All else is as in a run: one learner and one engine share the devices.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from jaxsearch import config as config_lib
from jaxsearch import sharding
from jaxsearch.algo.objective import Batch
from jaxsearch.bench import _memory, _syncing, _table, floors, traces
from jaxsearch.bench._devices import devices, require_split
from jaxsearch.bench.rollout import Bench
from jaxsearch.learner import Learner, TrainState
from jaxsearch.models import sizes

_PARTS = ('sync', 'rollout', 'update')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a step consists of.

  Attributes:
    model: name in models/sizes.
    trace: name in traces.SHAPES, or a file.
    trajectories: of the trace, rolled out once a step.
    rows: trained once a step.
    length: tokens of each row.
    steps: the first one is shown apart.
    tensor: devices that share the weights.
  """

  model: str
  trace: str
  trajectories: int
  rows: int
  length: int
  steps: int
  tensor: int


def step(settings: Settings, config: config_lib.Config, json_path: str = '') -> None:
  """Runs the loop and prints what its parts take.

  Args:
    settings: what a step consists of.
    config: dtype, attention, recomputation, micro-batches and the engine's knobs.
    json_path: file to write as well; empty: none.
  """
  scripts = traces.open_trace(settings.trace, settings.trajectories, latency_s=0.2)
  require_split(settings.model, settings.tensor)
  devices(settings.tensor)
  sharding.require_kernels(config)
  machine = floors.measure(jnp.dtype(config.policy.dtype))
  size = sizes.find(settings.model)
  bench = Bench(settings.model, config.policy.dtype, config.rollout, scripts, settings.tensor)
  start = bench.weights()
  learner = Learner(config, size, bench.mesh, start)
  state = learner.init_state(start)
  del start  # Of which the state is a copy.
  batches = [learner.place(batch) for batch in _batches(settings, config, size.vocab)]
  learner.compile(batches[:1])
  taken: list[dict[str, float]] = []
  for number in range(settings.steps):
    state, one = _one_step(bench, scripts, learner, state, batches)
    taken.append(one)
    print(f'step {number + 1}: ' + ', '.join(f'{k} {v:.3g}' for k, v in one.items()))
  found = {
    'settings': dataclasses.asdict(settings),
    'machine': {**_table.machine(), **dataclasses.asdict(machine)},
    **_figures(settings, bench.work, machine, taken, adapters=bool(config.policy.lora_rank)),
    'peak_memory_mb': _memory.peak_mb(),
    'steps': taken,
  }
  _show(found)
  if json_path:
    with open(json_path, 'w', encoding='utf-8') as file:
      json.dump(found, file, indent=2)


def _one_step(
  bench: Bench,
  scripts: Sequence[traces.Script],
  learner: Learner,
  state: TrainState,
  batches: Sequence[Batch],
) -> tuple[TrainState, dict[str, float]]:
  """The next state, the seconds of each part, and how many programs were compiled."""
  compiled: list[str] = []
  with _syncing.listening(compiled):
    marks = [time.perf_counter()]
    bench.bring(learner.weights.merged(state.params))
    marks.append(time.perf_counter())
    bench.run('resume', scripts)
    marks.append(time.perf_counter())
    state, _ = learner.update(state, batches)
    marks.append(time.perf_counter())
  seconds = dict(zip(_PARTS, np.diff(marks).tolist(), strict=True))
  return state, {**seconds, 'compiles': float(len(compiled))}


def _figures(
  settings: Settings,
  work: floors.Work,
  machine: floors.Machine,
  taken: Sequence[dict[str, float]],
  *,
  adapters: bool,
) -> dict[str, Any]:
  """Medians over all steps but the first."""
  later = taken[1:] or taken
  seconds = {part: statistics.median(one[part] for one in later) for part in _PARTS}
  # Backward costs twice forward (arXiv 2001.08361, 2.1), half of it for gradients to weights, which
  # adapters spare; what is computed again is no work. `plan` counts alike.
  tokens = settings.rows * settings.length
  seen = tokens * (settings.length + 1) // 2
  operations = (2 if adapters else 3) * work.operations(tokens, seen, sampled=tokens)
  return {
    'seconds': seconds,
    'update_operations': operations,
    'update_mfu': operations / seconds['update'] / machine.flops,
    'update_tokens_per_s': tokens / seconds['update'],
    'trajectories_per_s': settings.trajectories / seconds['rollout'],
    'compiles_after_first': int(sum(one['compiles'] for one in later)),
  }


def _batches(settings: Settings, config: config_lib.Config, vocab: int) -> list[Batch]:
  """Micro-batches of whole rows; the last may be filled up with empty ones."""
  rng = np.random.default_rng(0)
  count = max(1, config.learner.tokens_per_microbatch // settings.length)
  made = []
  for first in range(0, settings.rows, count):
    shape, real = (count, settings.length), min(count, settings.rows - first)
    lengths = np.where(np.arange(count) < real, settings.length, 0).astype(np.int32)
    made.append(
      Batch(
        tokens=rng.integers(0, vocab, shape).astype(np.int32),
        lengths=lengths,
        loss_mask=np.ones(shape, bool),
        sampler_logprobs=np.full(shape, -np.log(vocab), np.float32),
        advantages=rng.normal(size=shape).astype(np.float32),
        weights=(lengths > 0).astype(np.float32),
        sampled_mask=np.ones(shape, bool),
      )
    )
  return made


def _show(found: dict[str, Any]) -> None:
  console, machine = rich.console.Console(width=100), found['machine']
  table = rich.table.Table(title=f'A step of {found["settings"]["model"]}, medians')
  for name in ('part', 'seconds', 'share'):
    table.add_column(name, justify='left' if name == 'part' else 'right')
  total = sum(found['seconds'].values())
  for part, seconds in found['seconds'].items():
    table.add_row(part, f'{seconds:.3g}', f'{seconds / total:.0%}')
  console.print(table)
  console.print(
    f'Update: {found["update_tokens_per_s"]:.0f} tokens/s, {found["update_mfu"]:.0%} of the '
    f'{machine["flops"] / 1e9:.0f} GFLOP/s of a matrix product, measured on {machine["device"]}. '
    f'Rollout: {found["trajectories_per_s"]:.3g} trajectories/s. '
    f'{found["compiles_after_first"]} programs compiled after the first step; peak memory '
    f'{found["peak_memory_mb"]:.0f} MB.'
  )
