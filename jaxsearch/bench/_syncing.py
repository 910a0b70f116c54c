"""What it costs to bring new weights from the learner to the engine."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxsearch.bench import _memory
from jaxsearch.models import decoder
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.sync import WeightSync

_COMPILED = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def listening(compiled: list[str]) -> Iterator[None]:
  """Notes every compilation meanwhile."""

  def listen(event: str, *_: Any, **__: Any) -> None:
    if event == _COMPILED:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def measure(
  engine: Engine, sync: WeightSync, params: decoder.Params, calls: int = 3
) -> dict[str, Any]:
  """Brings `params` to the engine several times.

  Returns:
    bytes: of the engine's new weights, on all devices.
    seconds: median of a call, until the engine could use the weights.
    compiles: of all calls; 0, as the engine has been loaded before.
    beside_bytes: most that a call had alive beside the weights, new and old, before it let go of
      the old ones; 0 if it copied nothing else.
    left_bytes: alive after the last call that was not before the first; 0 if it only replaces.
  """
  compiled: list[str] = []
  seconds, beside = [], []
  gc.collect()  # Or arrays in circles are let go of in between, and counted as this call's.
  before = _memory.live_bytes()
  with listening(compiled):
    for _ in range(calls):
      start = time.perf_counter()
      weights = jax.block_until_ready(sync(params))
      taken = time.perf_counter() - start
      size = _memory.tree_bytes(weights)
      beside.append(_memory.live_bytes() - before - size)
      start = time.perf_counter()
      engine.load(weights)
      jax.block_until_ready(jax.live_arrays())  # The engine may keep them in another order, too.
      seconds.append(taken + time.perf_counter() - start)
      del weights
  return {
    'bytes': size,
    'seconds': statistics.median(seconds),
    'compiles': len(compiled),
    'beside_bytes': max(beside),
    'left_bytes': _memory.live_bytes() - before,
  }
