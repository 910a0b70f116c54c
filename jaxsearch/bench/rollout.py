"""`jaxsearch bench rollout`: one trace, replayed by our engine and by its counterfactuals."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch import config as config_lib
from jaxsearch import sharding
from jaxsearch.bench import _memory, _syncing, _table, floors, replay, traces
from jaxsearch.bench import gap as gap_lib
from jaxsearch.bench._devices import devices, require_split
from jaxsearch.bench._watched import Watched, Weighed
from jaxsearch.models import decoder, sizes
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.lanes import Lane
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.types import Kind, Trajectory

# name -> (feeds the whole context after a search, waits for everybody's search).
MODES = {
  'resume': (False, False),
  'reprefill': (True, False),
  'lockstep': (False, True),
  'lockstep+reprefill': (True, True),
}
_STEP_RUNS = 8


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
    tensor: devices that share the weights.
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
  """An engine with random weights, and traces that it replays.

  Attributes:
    engine: compiled.
    mesh: of a learner on the same devices.
    work: that the policy makes.
    weights: makes the same random parameters again, as a learner has them.
  """

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
    kept = jnp.dtype(rollout.cache_dtype or dtype)
    self.work, self._vocab = floors.Work(size, dtype.itemsize, kept.itemsize), size.vocab
    self._size, self._dtype = size, dtype
    self.mesh = sharding.make_mesh(config_lib.Mesh(data=1, tensor=tensor), devices(tensor))
    local = sampling_mesh(self.mesh, tensor)
    stops = replay.unstopped(size.vocab)
    self.engine = Engine(size, stops, self._rollout, mesh=local, dtype=dtype)
    init = jax.jit(decoder.init, static_argnums=1)
    self.weights = functools.partial(init, jax.random.key(0), size)
    self._sync = WeightSync(size, self.mesh, local, dtype)
    self.bring(self.weights())
    self.engine.warmup()

  def bring(self, params: decoder.Params) -> None:
    """Gives the engine these weights, and waits until it has them."""
    self.engine.load(self._sync(params))
    jax.block_until_ready(jax.live_arrays())

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
    """Seconds of a step of decode that begins with `context` tokens in every slot, and its floor.

    Both are means over the steps of one program, in which every row grows by a token a step.
    """
    chunk, steps, slots = self.engine.chunk, self.engine.steps, self.engine.roomy_slots
    tokens = np.random.default_rng(0).integers(0, self._vocab, context + 1).astype(np.int32)

    def lane(slot: int, start: int, stop: int) -> Lane:
      left = steps if stop == context else 0
      key = np.array([slot, 0], np.uint32)
      return Lane(slot, start, tokens[start:stop], int(tokens[stop]), left, key, 1.0)

    starts = range(0, context, chunk)
    self._extend([lane(s, at, min(at + chunk, context)) for s in slots for at in starts])
    seconds = []
    for _ in range(1 + _STEP_RUNS):
      # The last token once more: that rewinds the row to it.
      self._extend([lane(slot, context - 1, context) for slot in slots])
      self.engine.lengths()
      start = time.perf_counter()
      self.engine.read(self.engine.decode())
      seconds.append((time.perf_counter() - start) / steps)
    floor = [self.work.step(machine, [context + 1 + step] * len(slots)) for step in range(steps)]
    return {
      'context': context,
      'seconds': statistics.median(seconds[1:]),
      'floor': statistics.mean(floor),
    }

  def sync(self) -> dict[str, Any]:
    """What it costs to bring the weights over again, as after an update; see `_syncing`."""
    return _syncing.measure(self.engine, self._sync, self.weights())

  def temporaries(self) -> dict[str, int]:
    """Bytes that each program allocates on a device while it runs, beside weights and cache."""
    return {
      name: program.compile().memory_analysis().temp_size_in_bytes
      for name, program in self.engine.lowered().items()
      if name != 'score'  # Rewards alone ask for it.
    }

  def gap(self, scripts: Sequence[traces.Script]) -> dict[str, float]:
    """How far the log-probabilities of mode resume are from the learner's; see `bench.gap`."""
    done, _ = self._replay(self.engine, 'resume', scripts)
    return gap_lib.measure(self.weights(), self._size, self._dtype, done)

  def weigh(self, mode: str, scripts: Sequence[traces.Script]) -> int:
    """Most bytes that arrays take on the devices while `scripts` are replayed.

    Weights, cache and results are in it, what a program allocates while it runs is not.
    """
    weighed = Weighed(self.engine)
    self._replay(weighed, mode, scripts)
    return weighed.most

  def run(self, mode: str, scripts: Sequence[traces.Script]) -> dict[str, float]:
    """Replays `scripts` once; figures of this run."""
    compiled: list[str] = []
    with _syncing.listening(compiled):
      start = time.perf_counter()
      done, occupancy = self._replay(self.engine, mode, scripts)
      seconds = time.perf_counter() - start
    policy = sum(t.contexts[0].count(Kind.POLICY) for t in done)
    assert policy == sum(script.policy for script in scripts), 'the trace was not replayed'
    return {
      'trajectories_per_s': len(done) / seconds,
      'policy_tokens_per_s': policy / seconds,
      'all_tokens_per_s': sum(script.length for script in scripts) / seconds,
      'occupancy': occupancy,
      'compiles_after_warmup': float(len(compiled)),
    }

  def _replay(
    self, engine: Engine, mode: str, scripts: Sequence[traces.Script]
  ) -> tuple[list[Trajectory], float]:
    """(every trajectory, occupancy)."""
    reprefills, waits = MODES[mode]
    extender = (replay.Reprefill if reprefills else Extender)(engine)
    pool = (replay.Barrier if waits else replay.Delays)(scripts)
    sampler = Sampler(engine, extender, replay.Replay(scripts, self._vocab), self._rollout)
    tasks, done = replay.tasks(scripts), []
    # Whoever waits for everybody begins and ends with everybody, too.
    batch = engine.slots if waits else len(tasks)
    for first in range(0, len(tasks), batch):
      some = tasks[first : first + batch]
      done += sampler.rollout(some, pool=pool, top_k=1, temperature=1.0)
    return done, sampler.measure()['perf/occupancy']

  def _extend(self, lanes: Sequence[Lane]) -> None:
    for first in range(0, len(lanes), self.engine.lanes):
      self.engine.extend(lanes[first : first + self.engine.lanes])


def rollout(
  settings: Settings,
  modes: Sequence[str],
  *,
  step_contexts: Sequence[int] = (),
  sync: bool = False,
  gap: bool = False,
  json_path: str = '',
) -> None:
  """Replays one trace in every mode, in turn, and prints what they did.

  Args:
    settings: what to replay.
    modes: names in MODES.
    step_contexts: a step of decode is measured at each of these many tokens a row.
    sync: also measure how new weights are brought over.
    gap: also measure how far log-probabilities are from the learner's.
    json_path: file to write as well; empty: none.
  """
  # What may be refused comes first: the machine's rates take seconds to measure.
  scripts = traces.open_trace(settings.trace, settings.trajectories, settings.latency_s)
  require_split(settings.model, settings.tensor)
  devices(settings.tensor)
  sharding.require_kernels(config_lib.Config(rollout=settings.rollout))
  machine = floors.measure(jnp.dtype(settings.dtype))
  knobs = settings.rollout
  if step_contexts:
    room = max(step_contexts) + knobs.decode_steps
    knobs = dataclasses.replace(knobs, context_tokens=max(room, knobs.context_tokens))
  bench = Bench(settings.model, settings.dtype, knobs, scripts, settings.tensor)
  floor = bench.work.trace(machine, scripts, bench.engine.slots)
  # Untimed, which also warms the caches of the host and of XLA.
  live = {mode: bench.weigh(mode, scripts[: bench.engine.slots]) for mode in modes}
  temporary = bench.temporaries()
  runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
  for number in range(settings.repeats):
    for mode in modes:
      runs[mode].append(bench.run(mode, scripts))
      speed = runs[mode][-1]['trajectories_per_s']
      print(f'run {number + 1}, {mode}: {speed:.3g} trajectories/s', flush=True)
  found = {
    'settings': dataclasses.asdict(settings),
    'machine': {**_table.machine(), **dataclasses.asdict(machine)},
    'floor_trajectories_per_s': len(scripts) / floor,
    'where': bench.watch(scripts[: 2 * bench.engine.slots], machine),
    'steps': [bench.step(context, machine) for context in step_contexts],
    **({'sync': bench.sync()} if sync else {}),
    **({'gap': bench.gap(scripts[: bench.engine.slots])} if gap else {}),
    'temporary_mb': {name: count / 1e6 for name, count in temporary.items()},
    'peak_memory_mb': _memory.peak_mb(),
    'modes': {mode: {**_medians(some), 'live_mb': live[mode] / 1e6} for mode, some in runs.items()},
  }
  _table.show(found)
  if json_path:
    with open(json_path, 'w', encoding='utf-8') as file:
      json.dump(found, file, indent=2)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
  """The median run's figures, and the throughputs of all runs."""
  found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
  return {**found, 'runs': [run['trajectories_per_s'] for run in runs]}
