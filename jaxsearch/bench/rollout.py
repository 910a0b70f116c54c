"""`jaxsearch bench rollout`: one trace, replayed by our engine and by its counterfactuals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import rich.console
import rich.table

from jaxsearch import config as config_lib
from jaxsearch import sharding
from jaxsearch.bench import floors, replay, traces
from jaxsearch.models import decoder, sizes
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.types import Kind

# name -> (feeds the whole context after a search, waits for everybody's search).
MODES = {
  'resume': (False, False),
  'reprefill': (True, False),
  'lockstep': (False, True),
  'lockstep+reprefill': (True, True),
}
_COMPILED = '/jax/core/compile/backend_compile_duration'


@dataclasses.dataclass(frozen=True)
class Settings:
  """What to replay, and with which engine.

  Attributes:
    model: name in models/sizes.
    trace: name in traces.SHAPES, or a file.
    trajectories: of the trace.
    latency_s: of every search of a named trace.
    repeats: how often every mode is run, interleaved.
    dtype: of weights and cache.
    rollout: the engine's knobs; context_tokens 0 is what the trace needs.
  """

  model: str
  trace: str
  trajectories: int
  latency_s: float
  repeats: int
  dtype: str
  rollout: config_lib.Rollout


class Bench:
  """An engine with random weights and the trace that it replays."""

  def __init__(self, settings: Settings):
    """Makes the weights and compiles."""
    self.scripts = traces.open_trace(settings.trace, settings.trajectories, settings.latency_s)
    size, dtype = sizes.find(settings.model), jnp.dtype(settings.dtype)
    context = settings.rollout.context_tokens or -(-traces.longest(self.scripts) // 128) * 128
    self._rollout = dataclasses.replace(settings.rollout, context_tokens=context)
    self.work, self._vocab = floors.Work(size, dtype.itemsize), size.vocab
    mesh = sharding.make_mesh(config_lib.Mesh(data=1), jax.local_devices()[:1])
    local = sampling_mesh(mesh, 1)
    stops = replay.unstopped(size.vocab)
    self.engine = Engine(size, stops, self._rollout, mesh=local, dtype=dtype)
    params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), size)
    self.engine.load(WeightSync(size, mesh, local, dtype)(params))
    self.engine.warmup()

  def run(self, mode: str, scripts: Sequence[traces.Script]) -> dict[str, float]:
    """Replays `scripts` once; figures of this run."""
    reprefills, waits = MODES[mode]
    extender = (replay.Reprefill if reprefills else Extender)(self.engine)
    pool = (replay.Barrier if waits else replay.Delays)(scripts)
    sampler = Sampler(self.engine, extender, replay.Replay(scripts, self._vocab), self._rollout)
    tasks = replay.tasks(scripts)
    # Whoever waits for everybody begins and ends with everybody, too.
    batch = self.engine.slots if waits else len(tasks)
    compiled: list[str] = []
    with _listening(compiled):
      start = time.perf_counter()
      done = [
        trajectory
        for first in range(0, len(tasks), batch)
        for trajectory in sampler.rollout(
          tasks[first : first + batch], pool=pool, top_k=1, temperature=1.0
        )
      ]
      seconds = time.perf_counter() - start
    policy = sum(t.contexts[0].count(Kind.POLICY) for t in done)
    assert policy == sum(script.policy for script in scripts), 'the trace was not replayed'
    measured = sampler.measure()
    parts = {name.rsplit('/', 1)[1]: s for name, s in measured.items() if 'timing_s' in name}
    return {
      'trajectories_per_s': len(done) / seconds,
      'policy_tokens_per_s': policy / seconds,
      'all_tokens_per_s': sum(script.length for script in scripts) / seconds,
      'occupancy': measured['perf/occupancy'],
      'compiles_after_warmup': float(len(compiled)),
      **{f'share_{name}': s / seconds for name, s in parts.items()},
    }


@contextlib.contextmanager
def _listening(compiled: list[str]) -> Iterator[None]:
  """Notes every compilation meanwhile."""

  def listen(event: str, *_: Any, **__: Any) -> None:
    if event == _COMPILED:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def rollout(settings: Settings, modes: Sequence[str], json_path: str) -> None:
  """Replays one trace in every mode, in turn, and prints what they did.

  Args:
    settings: what to replay.
    modes: names in MODES.
    json_path: file to write as well; empty: none.
  """
  machine = floors.measure(jnp.dtype(settings.dtype))
  bench = Bench(settings)
  floor = bench.work.trace(machine, bench.scripts, bench.engine.slots)
  runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
  for mode in modes:  # Caches of the host and of XLA.
    bench.run(mode, bench.scripts[: bench.engine.slots])
  for _ in range(settings.repeats):
    for mode in modes:
      runs[mode].append(bench.run(mode, bench.scripts))
  found = {
    'settings': dataclasses.asdict(settings),
    'machine': {**_machine(), **dataclasses.asdict(machine)},
    'floor_trajectories_per_s': len(bench.scripts) / floor,
    'peak_memory_mb': _peak_memory_mb(),
    'modes': {mode: _medians(some) for mode, some in runs.items()},
  }
  _show(found)
  if json_path:
    with open(json_path, 'w', encoding='utf-8') as file:
      json.dump(found, file, indent=2)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
  """The median run's figures, and the throughputs of all runs."""
  found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
  return {**found, 'runs': [run['trajectories_per_s'] for run in runs]}


def _machine() -> dict[str, Any]:
  device = jax.devices()[0]
  return {'device': device.device_kind, 'cores': os.cpu_count(), 'jax': jax.__version__}


def _peak_memory_mb() -> float:
  """Of the device, or where it has no memory of its own, of the process."""
  stats = jax.devices()[0].memory_stats() or {}
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return stats.get('peak_bytes_in_use', resident) / 1e6


_COLUMNS = {
  'trajectories_per_s': 'trajectories/s',
  'policy_tokens_per_s': 'policy tokens/s',
  'all_tokens_per_s': 'all tokens/s',
  'occupancy': 'occupancy',
  'share_decode': 'decode',
  'share_extend': 'extend',
  'share_host': 'host',
  'share_wait': 'waiting',
  'compiles_after_warmup': 'compiled',
}


def _show(found: dict[str, Any]) -> None:
  settings, machine = found['settings'], found['machine']
  table = rich.table.Table(
    title=f'{settings["trace"]}, {settings["model"]}, {settings["rollout"]["slots"]} slots'
  )
  for name in ('mode', *_COLUMNS.values(), 'of the floor'):
    table.add_column(name, justify='left' if name == 'mode' else 'right')
  for mode, figures in found['modes'].items():
    cells = [f'{figures.get(name, 0.0):.3g}' for name in _COLUMNS]
    times = found['floor_trajectories_per_s'] / figures['trajectories_per_s']
    table.add_row(mode, *cells, f'{times:.2f} x')
  console = rich.console.Console(width=160)
  console.print(table)
  floor = found['floor_trajectories_per_s']
  console.print(
    f'Medians of {settings["repeats"]} interleaved runs. Floor: {floor:.3g} trajectories/s, with '
    f'{machine["flops"] / 1e9:.0f} GFLOP/s and {machine["bandwidth"] / 1e9:.1f} GB/s measured on '
    f'{machine["device"]}, {machine["cores"]} cores, jax {machine["jax"]}. Peak memory '
    f'{found["peak_memory_mb"]:.0f} MB.'
  )
