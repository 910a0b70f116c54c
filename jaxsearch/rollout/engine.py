"""The device half of a rollout: three programs over a donated cache with one length per row.

Invariant: the cache of a row holds every token of its context but the last one, which is
`pending`. Decode feeds the pending token and samples the next one; extend feeds the pending token
and a chunk's tokens but its last, which becomes pending. So every sampled token comes from the
decode program, and prompt, observation and resumption are one and the same operation.

With `rollout.deterministic` the shapes that a row meets never depend on the company it keeps:
decode always runs over all slots, extend always over [R, C] lanes. A trajectory's bits therefore do
not depend on slot, lane, other rows or time. Without it extend takes the smallest of a few numbers
of lanes, and matrices lie as the device multiplies few rows fastest; bits then differ, results do
not (`actor/logprob_gap`). All shapes are compiled at warm-up.

Rows are split over the mesh axis `replica`; slot numbers inside a program are local to a replica
and no collective crosses replicas. Weights are split over `tensor` inside a replica.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch import plugins
from jaxsearch.models import decoder
from jaxsearch.rollout.programs import Decoded, Programs, no_rows
from jaxsearch.text import stops as stops_lib


@dataclasses.dataclass(frozen=True)
class Lane:
  """What the host wants done to one slot.

  Attributes:
    slot: global slot number.
    start: cached tokens to keep; what lies beyond is forgotten (a smaller one rewinds the row).
    tokens: ids to write from `start` on: the pending token first; at most C.
    pending: the id that follows them, fed by the next decode step or extension.
    left: tokens that the row may sample once active; 0 leaves it parked.
    key: uint32 [2].
    temperature: 0 for greedy.
    source: slot whose first `start` cached tokens are copied (fork); None for an extension.

  Several lanes of one program may extend one slot, in order; the last one's state is the row's.
  """

  slot: int
  start: int
  tokens: np.ndarray
  pending: int
  left: int
  key: np.ndarray
  temperature: float
  source: int | None = None


class Engine:
  """Owns the sampling weights, the cache and the row states of this host's devices."""

  def __init__(
    self,
    size: decoder.Size,
    stops: stops_lib.StopTable,
    rollout: config_lib.Rollout,
    *,
    mesh: Mesh,
    dtype: Any = jnp.float32,
    spare: int = 0,
  ):
    """`mesh` has the axes (replica, tensor); `rollout.slots` are per replica.

    `spare` tokens have room behind a full context, for `score`.

    Raises:
      UserError: if the tokenizer that `stops` was compiled with has more ids than the policy.
    """
    self.replicas = mesh.shape['replica']
    self.slots = rollout.slots * self.replicas
    self.chunk = rollout.extend_tokens
    self.room = rollout.context_tokens + spare
    self.lanes = rollout.extend_rows
    self._local_slots = rollout.slots
    self._mesh = mesh
    self._split = NamedSharding(mesh, PartitionSpec('replica'))
    # Room for a whole chunk behind the last token, so that no window is ever clamped.
    time = self.room + rollout.extend_tokens
    self._turned = not rollout.deterministic and mesh.devices.flat[0].platform == 'cpu'
    self._lane_counts = _lane_counts(rollout)
    caches = plugins.load('rollout.caches', rollout.cache)
    programs = Programs(
      size, caches, stops.first_accept, rollout.decode_steps, dtype, turned=self._turned
    )
    self._table = stops_lib.widen(stops, size.vocab).table
    self._table = jax.device_put(self._table, NamedSharding(mesh, PartitionSpec()))
    init = functools.partial(caches.init, size, rollout, self.replicas, time, dtype)
    self._cache = self._allocate(init, size, caches.HEADS)
    self._rows = jax.device_put(no_rows(self.slots), self._split)
    self._params = self._decode_params = None
    self._turn = jax.jit(decoder.turn)
    self._decode = self._program(programs.decode, outputs=3)
    self._extend = self._program(programs.extend, outputs=2)
    self._score = self._program(programs.score, outputs=3)
    self._fork = self._program(programs.fork, outputs=2)

  def load(self, params: decoder.Params) -> None:
    """Takes sampling weights (see `rollout.sync`) for everything dispatched from now on."""
    self._params = params
    self._decode_params = self._turn(params) if self._turned else params

  def decode(self, stops: int = 2**30) -> Decoded:
    """Dispatches up to K steps over all active rows; the arrays are still being computed.

    The program of a replica ends early once `stops` of its rows have stopped.
    """
    once = {'table': self._table, 'stops': np.int32(stops)}
    self._cache, self._rows, out = self._decode(self._decode_params, self._cache, self._rows, once)
    for array in out:
      array.copy_to_host_async()
    return out

  def extend(self, lanes: Sequence[Lane]) -> None:
    """Writes each lane's tokens into its slot; at most R lanes per replica."""
    used = collections.Counter(self.replica(lane.slot) for lane in lanes)
    most = max(used.values(), default=0)
    count = next(count for count in self._lane_counts if count >= most)
    self._cache, self._rows = self._extend(
      self._params, self._cache, self._rows, self._pack(lanes, count)
    )

  def score(self, lanes: Sequence[Lane]) -> np.ndarray:
    """Like `extend`, and returns the log-probability of what followed each written token.

    Returns:
      float32 [lanes, C]: entry t of a lane is the log-probability of `tokens[t + 1]`, or of
      `pending` at the last one (teacher forcing, at the lane's temperature).
    """
    self._cache, self._rows, logprobs = self._score(
      self._params, self._cache, self._rows, self._pack(lanes, self.lanes)
    )
    logprobs = np.asarray(logprobs)
    return logprobs[self._places(lanes, self.lanes)]

  def fork(self, lanes: Sequence[Lane]) -> None:
    """Copies each lane's source row into its slot; source and slot share a replica."""
    self._cache, self._rows = self._fork(
      self._params, self._cache, self._rows, self._pack(lanes, self.lanes)
    )

  def lengths(self) -> np.ndarray:
    """int32 [slots]: tokens in each slot's cache, once everything dispatched is done."""
    return np.asarray(self._rows.length)

  def replica(self, slot: int) -> int:
    return slot // self._local_slots

  def warmup(self, *, scores: bool = False) -> None:
    """Compiles every program, `score` on demand, with lanes that do nothing; `load` comes first."""
    for count in self._lane_counts:
      idle = self._pack([], count)
      self._cache, self._rows = self._extend(self._params, self._cache, self._rows, idle)
    self.fork([])
    if scores:
      self.score([])
    jax.block_until_ready(self.decode())

  def _program(self, function: Callable[..., Any], *, outputs: int) -> Callable[..., Any]:
    """Jits `function(params, cache, rows, …)`: manual over `replica`, automatic over `tensor`."""
    split, whole = PartitionSpec('replica'), PartitionSpec()
    last = whole if function.__name__ == 'decode' else split
    mapped = jax.shard_map(
      function,
      mesh=self._mesh,
      in_specs=(whole, split, split, last),
      out_specs=(split,) * outputs,
      axis_names={'replica'},
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(1, 2))

  def _allocate(self, init: Callable[[], Any], size: decoder.Size, axis: int) -> Any:
    tensor = self._mesh.shape['tensor']
    heads = 'tensor' if size.kv_heads % tensor == 0 else None
    sharding = NamedSharding(self._mesh, PartitionSpec('replica', *[None] * (axis - 1), heads))
    return jax.jit(init, out_shardings=sharding)()

  def _places(self, lanes: Sequence[Lane], count: int) -> list[int]:
    """Row of each lane in arrays of `count` lanes a replica: its block, in order of arrival."""
    used = [0] * self.replicas
    places = []
    for lane in lanes:
      replica = self.replica(lane.slot)
      assert used[replica] < count, 'more lanes than the program has'
      places.append(replica * count + used[replica])
      used[replica] += 1
    return places

  def _pack(self, lanes: Sequence[Lane], count: int) -> dict[str, jax.Array]:
    total = count * self.replicas
    # Lanes without work point behind the last slot, where state writes are dropped.
    packed = {
      'slot': np.full(total, self._local_slots, np.int32),
      'row': np.full(total, self._local_slots, np.int32),
      'source': np.zeros(total, np.int32),
      'start': np.zeros(total, np.int32),
      'count': np.zeros(total, np.int32),
      'tokens': np.zeros((total, self.chunk), np.int32),
      'pending': np.zeros(total, np.int32),
      'left': np.zeros(total, np.int32),
      'key': np.zeros((total, 2), np.uint32),
      'temperature': np.zeros(total, np.float32),
    }
    last = {lane.slot: i for i, lane in enumerate(lanes)}
    for i, (place, lane) in enumerate(zip(self._places(lanes, count), lanes)):
      source = lane.slot if lane.source is None else lane.source
      assert self.replica(source) == self.replica(lane.slot)
      packed['slot'][place] = lane.slot % self._local_slots
      if last[lane.slot] == i:
        packed['row'][place] = lane.slot % self._local_slots
      packed['source'][place] = source % self._local_slots
      packed['count'][place] = len(lane.tokens)
      packed['tokens'][place, : len(lane.tokens)] = lane.tokens
      for name in ('start', 'pending', 'left', 'key', 'temperature'):
        packed[name][place] = getattr(lane, name)
    return jax.device_put(packed, self._split)


def _lane_counts(rollout: config_lib.Rollout) -> tuple[int, ...]:
  """Lanes that extend is compiled for, the fewest first."""
  most = rollout.extend_rows
  return (most,) if rollout.deterministic else tuple(sorted({-(-most // n) for n in (1, 2, 4)}))
