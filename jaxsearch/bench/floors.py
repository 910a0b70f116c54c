"""What the hardware allows: its rates, measured, and the work of a trace, counted.

Two floors, of every token's operations at the matrix rate, and of every byte that must be read at
the memory's bandwidth; no program is faster than the larger one.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.bench.traces import Script
from jaxsearch.models.decoder import Size

_REPEATS = 7


@dataclasses.dataclass(frozen=True)
class Machine:
  """Rates of all devices of one replica: floating-point operations and bytes a second."""

  flops: float
  bandwidth: float


def measure(dtype: Any) -> Machine:
  """The best of square matrix products, and of streams that are copied or only read.

  A copy reads and writes. On a CPU NumPy competes with XLA, its streams with a thread per core.
  """
  cpu = jax.default_backend() == 'cpu'
  n = 2048 if cpu else 8192
  a = jnp.full((n, n), 0.5, dtype)
  products = [_seconds(jax.jit(lambda a: a @ a), a)]
  # Far more than the caches hold that a core has for itself.
  stream = jnp.zeros((2**28 if cpu else 2**31) // a.dtype.itemsize, dtype)
  size = stream.nbytes
  rates = [
    2 * size / _seconds(jax.jit(lambda x: x + 1), stream),
    size / _seconds(jax.jit(jnp.max), stream),
  ]
  if cpu and a.dtype == np.float32:
    products.append(_seconds(lambda a: a @ a, np.array(a)))
    rates += _host_rates(np.array(stream))
  return Machine(2 * n**3 / min(products), max(rates))


def _host_rates(stream: np.ndarray) -> list[float]:
  """Bytes a second that all cores copy, and that they read."""
  cores = os.cpu_count()
  parts = np.array_split(stream, cores)
  targets = np.array_split(np.empty_like(stream), cores)
  with concurrent.futures.ThreadPoolExecutor(cores) as threads:
    copy = _seconds(lambda parts: list(threads.map(np.copyto, targets, parts)), parts)
    read = _seconds(lambda parts: list(threads.map(np.max, parts)), parts)
  return [2 * stream.nbytes / copy, stream.nbytes / read]


@dataclasses.dataclass(frozen=True)
class Work:
  """Operations and bytes of one policy (arXiv 2001.08361, section 2.1).

  Attributes:
    size: of the policy.
    itemsize: bytes of a weight.
    kept: bytes of a component of a key or value in the cache.
  """

  size: Size
  itemsize: int
  kept: int

  @property
  def _projections(self) -> int:
    """Entries of the matrices of all layers, without the output head."""
    s = self.size
    attention = s.embed * s.head_size * 2 * (s.heads + s.kv_heads)
    return s.layers * (attention + 3 * s.embed * s.hidden)

  def operations(self, tokens: int, seen: int, *, sampled: int) -> float:
    """Of `tokens` tokens that look at `seen` cache entries in all; `sampled` need logits."""
    head = 2.0 * self.size.vocab * self.size.embed * sampled
    attention = 4.0 * self.size.layers * self.size.heads * self.size.head_size * seen
    return 2.0 * self._projections * tokens + head + attention

  @property
  def weights(self) -> float:
    """Bytes that a step of decode reads of the weights."""
    return self.itemsize * (self._projections + self.size.vocab * self.size.embed)

  @property
  def entry(self) -> float:
    """Bytes of one token in the cache."""
    return self.kept * 2 * self.size.layers * self.size.kv_heads * self.size.head_size

  def step(self, machine: Machine, lengths: Sequence[int]) -> float:
    """Seconds that one step of decode over rows of these lengths takes at least."""
    operations = self.operations(len(lengths), sum(lengths), sampled=len(lengths))
    moved = self.weights + self.entry * sum(lengths)
    return max(operations / machine.flops, moved / machine.bandwidth)

  def trace(self, machine: Machine, scripts: Sequence[Script], rows: int) -> float:
    """Seconds that a trace takes at least with `rows` rows in each step of decode.

    Prompts are fed once for each of their trajectories' questions.
    """
    prompts = {script.question: script.prompt for script in scripts}
    fed = [(0, prompt) for prompt in prompts.values()]
    sampled = []
    for script in scripts:
      at = script.prompt
      for turn in script.turns:
        sampled.append((at, at + turn.policy))
        at += turn.policy + turn.observation
        fed.append((at - turn.observation, at))
    extend = self.operations(*_spans(fed), sampled=0) / machine.flops
    tokens, seen = _spans(sampled)
    operations = self.operations(tokens, seen, sampled=tokens) / machine.flops
    moved = (self.weights * tokens / rows + self.entry * seen) / machine.bandwidth
    return extend + max(operations, moved)


def _spans(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """(tokens, cache entries that they look at) of stretches of contexts."""
  tokens = sum(stop - start for start, stop in spans)
  return tokens, sum((stop * (stop + 1) - start * (start + 1)) // 2 for start, stop in spans)


def _seconds(function: Callable[[Any], Any], argument: Any) -> float:
  times = []
  for _ in range(1 + _REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(function(argument))
    times.append(time.perf_counter() - start)
  return min(times[1:])
