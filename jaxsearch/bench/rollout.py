"""`jaxsearch bench rollout`: one trace, replayed by our engine and by its counterfactuals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch import config as config_lib
from jaxsearch import sharding
from jaxsearch.bench import _table, floors, replay, traces
from jaxsearch.bench._watched import Watched
from jaxsearch.models import decoder, sizes
from jaxsearch.rollout.engine import Engine, Lane
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.types import Kind, UserError

# name -> (feeds the whole context after a search, waits for everybody's search).
MODES = {
  'resume': (False, False),
  'reprefill': (True, False),
  'lockstep': (False, True),
  'lockstep+reprefill': (True, True),
}
_STEP_RUNS = 8
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
    tensor: devices that share the weights; on a CPU, one for a core or two is fastest.
    rollout: the engine's knobs; the cache takes at least what the trace needs.
  """

  model: str
  trace: str
  trajectories: int
  latency_s: float
  repeats: int
  dtype: str
  tensor: int
  rollout: config_lib.Rollout


class Bench:
  """An engine with random weights, and traces that it replays."""

  def __init__(
    self,
    model: str,
    dtype: str,
    rollout: config_lib.Rollout,
    scripts: Sequence[traces.Script],
    tensor: int = 1,
  ):
    """Makes the weights and compiles; the cache takes at least what `scripts` need."""
    size, dtype = sizes.find(model), jnp.dtype(dtype)
    context = max(rollout.context_tokens, -(-traces.longest(scripts) // 128) * 128)
    self._rollout = dataclasses.replace(rollout, context_tokens=context)
    self.work, self._vocab = floors.Work(size, dtype.itemsize), size.vocab
    devices = _devices(tensor)
    mesh = sharding.make_mesh(config_lib.Mesh(data=1, tensor=tensor), devices)
    local = sampling_mesh(mesh, tensor)
    stops = replay.unstopped(size.vocab)
    self.engine = Engine(size, stops, self._rollout, mesh=local, dtype=dtype)
    params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), size)
    self.engine.load(WeightSync(size, mesh, local, dtype)(params))
    self.engine.warmup()

  def watch(self, scripts: Sequence[traces.Script], machine: floors.Machine) -> dict[str, float]:
    """Where the time of mode resume goes, in a run of its own: every program is waited for."""
    watched = Watched(self.engine, self.work, machine)
    replayed = replay.Replay(scripts, self._vocab)
    sampler = Sampler(watched, Extender(watched), replayed, self._rollout)
    start = time.perf_counter()
    sampler.rollout(replay.tasks(scripts), pool=replay.Delays(scripts), top_k=1, temperature=1.0)
    seconds = time.perf_counter() - start
    waited = sampler.measure().get('timing_s/gen/wait', 0.0)
    host = seconds - waited - watched.decode_s - watched.extend_s
    return {
      'share_decode': watched.decode_s / seconds,
      'share_extend': watched.extend_s / seconds,
      'share_host': host / seconds,
      'share_wait': waited / seconds,
      'decode_step_s': watched.decode_s / watched.steps,
      'decode_floor_s': watched.floor_s / watched.steps,
    }

  def step(self, context: int, machine: floors.Machine) -> dict[str, float]:
    """Seconds of a step of decode with every slot at `context` tokens, and its floor."""
    chunk, steps = self.engine.chunk, self._rollout.decode_steps
    tokens = np.random.default_rng(0).integers(0, self._vocab, context + 1).astype(np.int32)
    lanes = []
    for slot in range(self.engine.slots):
      key = np.array([slot, 0], np.uint32)
      for at in range(0, context, chunk):
        stop = min(at + chunk, context)
        left = _STEP_RUNS * steps if stop == context else 0
        lanes.append(Lane(slot, at, tokens[at:stop], int(tokens[stop]), left, key, 1.0))
    for first in range(0, len(lanes), self.engine.lanes):
      self.engine.extend(lanes[first : first + self.engine.lanes])
    seconds = []
    for _ in range(_STEP_RUNS):
      before = self.engine.lengths()
      start = time.perf_counter()
      jax.block_until_ready(self.engine.decode())
      seconds.append((time.perf_counter() - start) / steps)
    floor = self.work.step(machine, before)
    return {'context': context, 'seconds': statistics.median(seconds[1:]), 'floor': floor}

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
    return {
      'trajectories_per_s': len(done) / seconds,
      'policy_tokens_per_s': policy / seconds,
      'all_tokens_per_s': sum(script.length for script in scripts) / seconds,
      'occupancy': sampler.measure()['perf/occupancy'],
      'compiles_after_warmup': float(len(compiled)),
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


def rollout(settings: Settings, modes: Sequence[str], step_context: int, json_path: str) -> None:
  """Replays one trace in every mode, in turn, and prints what they did.

  Args:
    settings: what to replay.
    modes: names in MODES.
    step_context: if not 0, a step of decode is measured at this many tokens a row.
    json_path: file to write as well; empty: none.
  """
  # What may be refused comes first: the machine's rates take seconds to measure.
  scripts = traces.open_trace(settings.trace, settings.trajectories, settings.latency_s)
  _require_split(settings.model, settings.tensor)
  _devices(settings.tensor)
  machine = floors.measure(jnp.dtype(settings.dtype))
  knobs = settings.rollout
  if step_context:
    room = step_context + _STEP_RUNS * knobs.decode_steps
    knobs = dataclasses.replace(knobs, context_tokens=room)
  bench = Bench(settings.model, settings.dtype, knobs, scripts, settings.tensor)
  floor = bench.work.trace(machine, scripts, bench.engine.slots)
  runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
  for mode in modes:  # Caches of the host and of XLA.
    bench.run(mode, scripts[: bench.engine.slots])
  for _ in range(settings.repeats):
    for mode in modes:
      runs[mode].append(bench.run(mode, scripts))
  found = {
    'settings': dataclasses.asdict(settings),
    'machine': {**_table.machine(), **dataclasses.asdict(machine)},
    'floor_trajectories_per_s': len(scripts) / floor,
    'where': bench.watch(scripts, machine),
    **({'step': bench.step(step_context, machine)} if step_context else {}),
    'peak_memory_mb': _table.peak_memory_mb(),
    'modes': {mode: _medians(some) for mode, some in runs.items()},
  }
  _table.show(found)
  if json_path:
    with open(json_path, 'w', encoding='utf-8') as file:
      json.dump(found, file, indent=2)


def _require_split(model: str, tensor: int) -> None:
  """Heads that cannot be split are whole on every device, but something must be split.

  Raises:
    UserError: there is no such model, or its matrices cannot be split.
  """
  hidden = sizes.find(model).hidden
  if hidden % tensor:
    raise UserError(
      f'--tensor is {tensor}; allowed: a divisor of {hidden}, the hidden size of {model}.'
    )


def _devices(count: int) -> list[jax.Device]:
  """The first devices; a CPU is made into as many as are wanted, if JAX has not started yet.

  This goes before the number of pretended devices that XLA_FLAGS may name.

  Raises:
    UserError: there are not so many.
  """
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', max(count, jax.config.jax_num_cpu_devices))
  devices = jax.local_devices()
  if len(devices) < count:
    raise UserError(f'--tensor is {count}, but there are {len(devices)} devices. Take fewer.')
  return devices[:count]


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
  """The median run's figures, and the throughputs of all runs."""
  found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
  return {**found, 'runs': [run['trajectories_per_s'] for run in runs]}
