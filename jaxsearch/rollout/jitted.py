"""The engine's programs on a mesh, and the shapes of everything that they are called with.

Nothing here is on a device: `Engine` allocates what is described here, and `plan` compiles it for
devices that this machine does not have.
"""

from __future__ import annotations

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
from jaxsearch.rollout.lanes import Packer
from jaxsearch.rollout.memory import Memory
from jaxsearch.rollout.programs import Programs, no_rows
from jaxsearch.text import stops as stops_lib

# How what decode is told lies on the mesh.
_TOLD = dict.fromkeys(('table', 'steps', 'stops'), PartitionSpec())
_TOLD |= dict.fromkeys(('slots', 'where'), PartitionSpec('replica'))


class Jitted:
  """Traced functions of one policy, jitted over the replicas of one mesh.

  Attributes:
    decode, extend, score, fork: take weights, cache, rows and what the host tells them; cache and
      rows are donated.
    extend_lanes, decode_lanes: numbers of lanes of a replica that they are compiled for, ascending.
    table: int32 [states, V], the stop automaton.
    room: tokens of a full context and of what may be forced behind it.
    forces: places of a context that can be forced.
    memory, packer: the host's bookkeeping.
    packed: whether weights lie as models/packed has them.
  """

  def __init__(
    self,
    size: decoder.Size,
    stops: stops_lib.StopTable,
    rollout: config_lib.Rollout,
    *,
    mesh: Mesh,
    dtype: Any,
    spare: int,
  ):
    """As `Engine`."""
    self._mesh = mesh
    self._slots = rollout.slots
    self.room = rollout.context_tokens + spare
    # Room for a whole chunk behind the last token, so that no window is ever clamped.
    time = self.room + rollout.extend_tokens
    caches = plugins.load('rollout.caches', rollout.cache)
    replicas = mesh.shape['replica']
    self.packed = caches.PACKED
    self.memory = Memory(rollout, replicas, time, paged=caches.PAGED)
    # Rows that lose their pages are replayed token by token, to the bit.
    self.forces = self.room + 1 if rollout.pages and rollout.deterministic else 0
    self.packer = Packer(
      self.memory,
      slots=rollout.slots,
      replicas=replicas,
      chunk=rollout.extend_tokens,
      forces=self.forces,
    )
    fixed = rollout.deterministic
    self.extend_lanes = _lane_counts(rollout.extend_rows, fixed=fixed)
    self.decode_lanes = _lane_counts(rollout.slots, fixed=fixed or not caches.PAGED)
    self.table = stops_lib.widen(stops, size.vocab).table
    kept = jnp.dtype(rollout.cache_dtype or dtype)
    self._init_cache = functools.partial(caches.init, size, rollout, replicas, time, kept)
    heads = 'tensor' if size.kv_heads % mesh.shape['tensor'] == 0 else None
    self._cache_spec = PartitionSpec('replica', *[None] * (caches.HEADS - 1), heads)
    programs = Programs(size, caches, stops.first_accept, rollout.decode_steps, dtype)
    self.decode = self._program(programs.decode, outputs=3)
    self.extend = self._program(programs.extend, outputs=2)
    self.score = self._program(programs.score, outputs=3)
    self.fork = self._program(programs.fork, outputs=2)

  def empty_cache(self) -> Callable[[], Any]:
    """Makes the cache, its first axis split over replicas and its heads over `tensor`."""
    return jax.jit(self._init_cache, out_shardings=NamedSharding(self._mesh, self._cache_spec))

  def abstract_cache(self) -> Any:
    """Shapes and shardings of what `empty_cache` makes."""
    return _placed(jax.eval_shape(self._init_cache), self._mesh, self._cache_spec)

  def told(self, slots: Sequence[int], count: int, steps: int, stops: int) -> dict[str, Any]:
    """What decode is told beside weights, cache and rows, as numpy; `count` lanes a replica."""
    replicas = self._mesh.shape['replica']
    everyone = self._slots * replicas
    if count == self._slots:
      slots, rows = range(everyone), list(range(everyone))
    else:
      rows = self.packer.rows(slots, count)
    local = np.full(count * replicas, self._slots, np.int32)
    local[rows] = np.asarray(slots, np.int32) % self._slots
    where = self.memory.nowhere(len(local))
    where[rows] = self.memory.places(slots)
    return {'steps': np.int32(steps), 'stops': np.int32(stops), 'slots': local, 'where': where}

  def traced(self, params: Any) -> dict[str, jax.stages.Traced]:
    """Every program with the most lanes, to be lowered and looked at; nothing runs.

    Args:
      params: weights, or their shapes and shardings.
    """
    split = PartitionSpec('replica')
    rows = no_rows(self._slots * self._mesh.shape['replica'], self.forces)
    state = params, self.abstract_cache(), _placed(rows, self._mesh, split)
    lanes = _placed(self.packer.pack([], self.extend_lanes[-1]), self._mesh, split)
    told = {'table': self.table, **self.told([], self.decode_lanes[-1], 1, 1)}
    once = {n: _placed(a, self._mesh, _TOLD[n]) for n, a in told.items()}
    return {
      'decode': self.decode.trace(*state, once),
      'extend': self.extend.trace(*state, lanes),
      'score': self.score.trace(*state, lanes),
      'fork': self.fork.trace(*state, lanes),
    }

  def _program(self, function: Callable[..., Any], *, outputs: int) -> Callable[..., Any]:
    """Jits `function(params, cache, rows, …)`: manual over `replica`, automatic over `tensor`."""
    split, whole = PartitionSpec('replica'), PartitionSpec()
    mapped = jax.shard_map(
      function,
      mesh=self._mesh,
      in_specs=(whole, split, split, _TOLD if function.__name__ == 'decode' else split),
      out_specs=(split,) * outputs,
      axis_names={'replica'},
      check_vma=False,
    )
    # Rows lie as they lay, or what takes them next is compiled again; the cache by its heads.
    places = (None, *[NamedSharding(self._mesh, split)] * (outputs - 1))
    return jax.jit(mapped, donate_argnums=(1, 2), out_shardings=places)


def _placed(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
  at = NamedSharding(mesh, spec)
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at), tree)


def _lane_counts(most: int, *, fixed: bool) -> tuple[int, ...]:
  """Lanes that a program is compiled for, the fewest first."""
  return (most,) if fixed else tuple(sorted({-(-most // n) for n in (1, 2, 4)}))
