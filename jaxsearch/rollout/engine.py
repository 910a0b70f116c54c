"""The device half of a rollout: three programs over a donated cache with one length per row.

Invariant: the cache of a row holds every token of its context but the last one, which is
`pending`. Decode feeds the pending token and samples the next one; extend feeds the pending token
and a chunk's tokens but its last, which becomes pending. So every sampled token comes from the
decode program, and prompt, observation and resumption are one and the same operation.

With `rollout.deterministic` the shapes that a row meets never depend on the company it keeps:
decode always runs over all slots, extend always over [R, C] lanes. A trajectory's bits therefore do
not depend on slot, lane, other rows or time. Without it both take the smallest of a few numbers of
lanes that holds the work; bits may then differ, results do not (`mismatch/logp_absdiff_mean`). All
shapes are compiled at warm-up.

Rows are split over the mesh axis `replica`; slot numbers inside a program are local to a replica
and no collective crosses replicas. Weights are split over `tensor` inside a replica.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch.models import decoder, packed
from jaxsearch.rollout.jitted import Jitted
from jaxsearch.rollout.lanes import Lane
from jaxsearch.rollout.programs import Decoded, no_rows
from jaxsearch.text import stops as stops_lib


class Chunk(NamedTuple):
  """A chunk of decode that the device is at work on; `Engine.read` waits for it.

  Attributes:
    slots: global slots that it may sample for.
    rows: their rows in the arrays of `out`.
    out: arrays on the device.
  """

  slots: np.ndarray
  rows: list[int]
  out: Decoded


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
    self._jitted = Jitted(size, stops, rollout, mesh=mesh, dtype=dtype, spare=spare)
    self.memory, self._packer = self._jitted.memory, self._jitted.packer
    self.replicas = mesh.shape['replica']
    self.slots = rollout.slots * self.replicas
    self.chunk = rollout.extend_tokens
    self.room, self.forces = self._jitted.room, self._jitted.forces
    self.lanes = rollout.extend_rows
    self.steps = rollout.decode_steps
    self._local_slots = rollout.slots
    self._split = NamedSharding(mesh, PartitionSpec('replica'))
    self._table = jax.device_put(self._jitted.table, NamedSharding(mesh, PartitionSpec()))
    self._cache = self._jitted.empty_cache()()
    self._rows = jax.device_put(no_rows(self.slots, self.forces), self._split)
    self._params = None
    pack = functools.partial(jax.jit(packed.pack, static_argnames='size'), size=size)
    self._laid_out = pack if self._jitted.packed else lambda params: params

  @property
  def fewest_lanes(self) -> int:
    """Lanes of the smallest program of extend; with fewer ones some of it is wasted."""
    return self._jitted.extend_lanes[0]

  @property
  def roomy_slots(self) -> list[int]:
    """Slots that may all hold full rows at the same time."""
    return [s for s in range(self.slots) if s % self._local_slots < self.memory.roomy]

  def load(self, params: decoder.Params) -> None:
    """Takes sampling weights (see `rollout.sync`) for everything dispatched from now on."""
    self._params = self._laid_out(params)

  def unload(self) -> None:
    """Gives up the weights, so that there is room for others; nothing runs before `load`."""
    self._params = None

  def decode(self, *, steps: int | None = None, stops: int | None = None) -> Chunk:
    """Dispatches up to `steps` steps, at most K, over all active rows.

    The program of a replica ends early once `stops` of its rows have stopped. There must be pages
    (`memory.lacks`).
    """
    steps = min(steps or self.steps, self.steps)
    slots = self.memory.active
    self._copy(self.memory.decode(slots))
    used = collections.Counter(self.replica(slot) for slot in slots)
    count = _smallest(self._jitted.decode_lanes, used)
    once = self._told(slots, count, steps, self.slots if stops is None else stops)
    self._cache, self._rows, out = self._jitted.decode(self._params, self._cache, self._rows, once)
    for array in out:
      array.copy_to_host_async()
    everyone = count == self._local_slots
    return Chunk(slots, list(slots) if everyone else self._packer.rows(slots, count), out)

  def read(self, chunk: Chunk) -> Decoded:
    """Waits for a chunk; arrays over all slots, 0 for those that were not in it."""
    read = []
    for array in chunk.out:
      lanes = np.asarray(array)
      read.append(np.zeros((self.slots, *lanes.shape[1:]), lanes.dtype))
      read[-1][chunk.slots] = lanes[chunk.rows]
    decoded = Decoded(*read)
    self.memory.read(chunk.slots, decoded.count[chunk.slots], decoded.active[chunk.slots])
    return decoded

  def extend(self, lanes: Sequence[Lane]) -> None:
    """Writes each lane's tokens into its slot; at most R lanes per replica.

    There must be pages (`memory.fits`).
    """
    used = collections.Counter(self.replica(lane.slot) for lane in lanes)
    written = self._written(lanes, _smallest(self._jitted.extend_lanes, used))
    self._cache, self._rows = self._jitted.extend(self._params, self._cache, self._rows, written)

  def score(self, lanes: Sequence[Lane]) -> np.ndarray:
    """Like `extend`, and returns the log-probability of what followed each written token.

    Returns:
      float32 [lanes, C]: entry t of a lane is the log-probability of `tokens[t + 1]`, or of
      `pending` at the last one (teacher forcing, at the lane's temperature).
    """
    written = self._written(lanes, self.lanes)
    self._cache, self._rows, logprobs = self._jitted.score(
      self._params, self._cache, self._rows, written
    )
    return np.asarray(logprobs)[self._packer.rows([lane.slot for lane in lanes], self.lanes)]

  def fork(self, lanes: Sequence[Lane]) -> None:
    """Copies each lane's source row into its slot; source and slot share a replica."""
    assert all(self.replica(lane.source) == self.replica(lane.slot) for lane in lanes)
    copies = [self.memory.share(lane.source, lane.slot, lane.start, lane.left) for lane in lanes]
    self._set(self._packer.pack(lanes, self.lanes, copies))

  def release(self, slots: Sequence[int]) -> None:
    """Nothing is sampled for these slots any more, and what they hold is given up."""
    for slot in slots:
      self.memory.release(slot)
    nobody = (np.zeros(0, np.int32), 0, 0, np.zeros(2, np.uint32), 0.0)
    for first in range(0, len(slots), self.lanes):
      some = [Lane(slot, 0, *nobody) for slot in slots[first : first + self.lanes]]
      self._set(self._packer.pack(some, self.lanes))

  def lengths(self) -> np.ndarray:
    """int32 [slots]: tokens in each slot's cache, once everything dispatched is done."""
    return np.asarray(self._rows.length)

  def replica(self, slot: int) -> int:
    return slot // self._local_slots

  def warmup(self, *, scores: bool = False) -> None:
    """Compiles every program, `score` on demand, with lanes that do nothing; `load` comes first."""
    for count in self._jitted.extend_lanes:
      idle = self._put(self._packer.pack([], count))
      self._cache, self._rows = self._jitted.extend(self._params, self._cache, self._rows, idle)
    self.fork([])
    if scores:
      self.score([])
    for count in self._jitted.decode_lanes:
      once = self._told([], count, 1, 1)
      self._cache, self._rows, out = self._jitted.decode(
        self._params, self._cache, self._rows, once
      )
    jax.block_until_ready(out)

  def lowered(self) -> dict[str, jax.stages.Lowered]:
    """Every program with the most lanes, to be compiled and looked at; it runs nothing."""
    traced = self._jitted.traced(self._params)
    return {name: program.lower() for name, program in traced.items()}

  def _told(self, slots: Sequence[int], count: int, steps: int, stops: int) -> dict[str, Any]:
    told = self._jitted.told(slots, count, steps, stops)
    split = self._put({name: told.pop(name) for name in ('slots', 'where')})
    return {'table': self._table, **told, **split}

  def _written(self, lanes: Sequence[Lane], count: int) -> dict[str, jax.Array]:
    """The packed lanes, whose slots have pages of their own for what is written."""
    by_slot: dict[int, list[Lane]] = {}
    for lane in lanes:
      by_slot.setdefault(lane.slot, []).append(lane)
    copies = []
    for slot, (first, *_, last) in ((s, [some[0], *some]) for s, some in by_slot.items()):
      made = self.memory.write(slot, first.start, last.stop, last.left)
      copies += [(slot, *copy) for copy in made]
    self._copy(copies)
    return self._put(self._packer.pack(lanes, count))

  def _copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
    for first in range(0, len(copies), self.lanes):
      self._set(self._packer.copying(copies[first : first + self.lanes], self.lanes))

  def _set(self, lanes: dict[str, np.ndarray]) -> None:
    lanes = self._put(lanes)
    self._cache, self._rows = self._jitted.fork(self._params, self._cache, self._rows, lanes)

  def _put(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return jax.device_put(arrays, self._split)


def _smallest(counts: Sequence[int], used: collections.Counter[int]) -> int:
  """Of the numbers of lanes, the smallest that holds what every replica uses."""
  return next(count for count in counts if count >= max(used.values(), default=0))
