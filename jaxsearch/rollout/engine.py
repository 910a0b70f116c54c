"""The device half of a rollout: three programs over a donated cache with one length per row.

Invariant: the cache of a row holds every token of its context but the last one, which is
`pending`. Decode feeds the pending token and samples the next one; extend feeds the pending token
and a chunk's tokens but its last, which becomes pending. So every sampled token comes from the
decode program, and prompt, observation and resumption are one and the same operation.

The shapes that a row meets never depend on the company it keeps: decode always runs over all
slots and the whole cache, extend always over [R, C] lanes. A trajectory's bits therefore do not
depend on slot, lane, other rows or time.

Rows are split over the mesh axis `replica`; slot numbers inside a program are local to a replica
and no collective crosses replicas. Weights are split over `tensor` inside a replica.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch.models import decoder
from jaxsearch.rollout import cache as cache_lib
from jaxsearch.rollout import sampling
from jaxsearch.text.stops import StopTable


class Rows(NamedTuple):
  """State of all slots.

  Attributes:
    length: int32 [S], tokens in the cache.
    pending: int32 [S], last token of the context, not in the cache yet.
    automaton: int32 [S], state of the stop table.
    left: int32 [S], tokens that may still be sampled before the host is asked.
    active: bool [S], whether decode samples for this slot.
    key: uint32 [S,2], the trajectory's own randomness.
    temperature: float32 [S], 0 for greedy.
  """

  length: jax.Array
  pending: jax.Array
  automaton: jax.Array
  left: jax.Array
  active: jax.Array
  key: jax.Array
  temperature: jax.Array


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
  """

  slot: int
  start: int
  tokens: np.ndarray
  pending: int
  left: int
  key: np.ndarray
  temperature: float
  source: int | None = None


class Decoded(NamedTuple):
  """What a decode program hands back; arrays over all slots.

  Attributes:
    tokens: int32 [S,K] and logprobs: float32 [S,K], the first `count` of each row.
    count: int32 [S].
    automaton: int32 [S], an accepting state of the stop table if a stop was completed.
    active: bool [S], whether the row goes on.
  """

  tokens: np.ndarray
  logprobs: np.ndarray
  count: np.ndarray
  automaton: np.ndarray
  active: np.ndarray


class Engine:
  """Owns the sampling weights, the cache and the row states of this host's devices."""

  def __init__(
    self,
    size: decoder.Size,
    stops: StopTable,
    rollout: config_lib.Rollout,
    *,
    mesh: Mesh,
    dtype: Any = jnp.float32,
  ):
    """`mesh` has the axes (replica, tensor); `rollout.slots` are per replica."""
    self.replicas = mesh.shape['replica']
    self.slots = rollout.slots * self.replicas
    self.chunk = rollout.extend_tokens
    self.lanes = rollout.extend_rows
    self._local_slots = rollout.slots
    self._mesh = mesh
    self._split = NamedSharding(mesh, PartitionSpec('replica'))
    # Room for a whole chunk behind the last token, so that no window is ever clamped.
    time = rollout.context_tokens + rollout.extend_tokens
    programs = _Programs(size, stops.first_accept, rollout.decode_steps, dtype)
    self._table = jax.device_put(stops.table, NamedSharding(mesh, PartitionSpec()))
    self._cache = self._init_cache(size, time, dtype)
    self._rows = jax.device_put(_no_rows(self.slots), self._split)
    self._params = None
    self._decode = self._program(programs.decode, outputs=3)
    self._extend = self._program(programs.extend, outputs=2)
    self._score = self._program(programs.score, outputs=3)
    self._fork = self._program(programs.fork, outputs=2)

  def load(self, params: decoder.Params) -> None:
    """Takes unstacked sampling weights (see `rollout.sync`) for everything dispatched from now on."""
    self._params = params

  def decode(self) -> Decoded:
    """Dispatches up to K steps over all active rows; the arrays are still being computed."""
    self._cache, self._rows, out = self._decode(self._params, self._cache, self._rows, self._table)
    for array in out:
      array.copy_to_host_async()
    return out

  def extend(self, lanes: Sequence[Lane]) -> None:
    """Writes each lane's tokens into its slot; at most R lanes per replica, none twice."""
    self._cache, self._rows = self._extend(
      self._params, self._cache, self._rows, self._pack(lanes, self.chunk)
    )

  def score(self, lanes: Sequence[Lane]) -> np.ndarray:
    """Like `extend`, and returns the log-probability of what followed each written token.

    Returns:
      float32 [lanes, C]: entry t of a lane is the log-probability of `tokens[t + 1]`, or of
      `pending` at the last one (teacher forcing, at the lane's temperature).
    """
    self._cache, self._rows, logprobs = self._score(
      self._params, self._cache, self._rows, self._pack(lanes, self.chunk)
    )
    logprobs = np.asarray(logprobs)
    return np.stack([logprobs[place] for place in self._places(lanes)])

  def fork(self, lanes: Sequence[Lane]) -> None:
    """Copies each lane's source row into its slot; source and slot share a replica."""
    self._cache, self._rows = self._fork(
      self._params, self._cache, self._rows, self._pack(lanes, self.chunk)
    )

  def replica(self, slot: int) -> int:
    return slot // self._local_slots

  def warmup(self) -> None:
    """Compiles every program, with lanes that do nothing; `load` comes first."""
    self.extend([])
    self.fork([])
    jax.block_until_ready(self.decode())

  def _program(self, function: Callable[..., Any], *, outputs: int) -> Callable[..., Any]:
    """Jits `function(params, cache, rows, …)`, manual over `replica` and automatic over `tensor`."""
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

  def _init_cache(self, size: decoder.Size, time: int, dtype: Any) -> cache_lib.Cache:
    tensor = self._mesh.shape['tensor']
    heads = 'tensor' if size.kv_heads % tensor == 0 else None
    sharding = NamedSharding(self._mesh, PartitionSpec('replica', heads))
    make = functools.partial(cache_lib.init, size, self.slots, time, dtype)
    return jax.jit(make, out_shardings=sharding)()

  def _places(self, lanes: Sequence[Lane]) -> list[int]:
    """Row of each lane in the packed arrays: its replica's block, in order of arrival."""
    used = [0] * self.replicas
    places = []
    for lane in lanes:
      replica = self.replica(lane.slot)
      assert used[replica] < self.lanes, 'more lanes than the program has'
      places.append(replica * self.lanes + used[replica])
      used[replica] += 1
    return places

  def _pack(self, lanes: Sequence[Lane], width: int) -> dict[str, jax.Array]:
    total = self.lanes * self.replicas
    # Lanes without work point behind the last slot, where state writes are dropped.
    packed = {
      'slot': np.full(total, self._local_slots, np.int32),
      'source': np.zeros(total, np.int32),
      'start': np.zeros(total, np.int32),
      'count': np.zeros(total, np.int32),
      'tokens': np.zeros((total, width), np.int32),
      'pending': np.zeros(total, np.int32),
      'left': np.zeros(total, np.int32),
      'key': np.zeros((total, 2), np.uint32),
      'temperature': np.zeros(total, np.float32),
    }
    for place, lane in zip(self._places(lanes), lanes):
      source = lane.slot if lane.source is None else lane.source
      assert self.replica(source) == self.replica(lane.slot)
      packed['slot'][place] = lane.slot % self._local_slots
      packed['source'][place] = source % self._local_slots
      packed['count'][place] = len(lane.tokens)
      packed['tokens'][place, : len(lane.tokens)] = lane.tokens
      for name in ('start', 'pending', 'left', 'key', 'temperature'):
        packed[name][place] = getattr(lane, name)
    return jax.device_put(packed, self._split)


class _Programs:
  """The traced functions; shapes are one replica's."""

  def __init__(self, size: decoder.Size, first_accept: int, steps: int, dtype: Any):
    self._size, self._first_accept, self._steps, self._dtype = size, first_accept, steps, dtype

  def decode(self, params: Any, cache: cache_lib.Cache, rows: Rows, table: jax.Array) -> Any:
    S = rows.length.shape[0]
    empty = (jnp.zeros((S, self._steps), jnp.int32), jnp.zeros((S, self._steps)))

    def more(carry: Any) -> jax.Array:
      step, _, rows, *_ = carry
      return (step < self._steps) & rows.active.any()

    def one(carry: Any) -> Any:
      step, cache, rows, tokens_SK, logprobs_SK, count_S = carry
      cache, token_S, logprob_S = self._next(params, cache, rows)
      tokens_SK = tokens_SK.at[:, step].set(jnp.where(rows.active, token_S, 0))
      logprobs_SK = logprobs_SK.at[:, step].set(jnp.where(rows.active, logprob_S, 0.0))
      count_S = count_S + rows.active
      rows = self._advance(rows, token_S, table)
      return step + 1, cache, rows, tokens_SK, logprobs_SK, count_S

    start = (0, cache, rows, *empty, jnp.zeros(S, jnp.int32))
    _, cache, rows, tokens_SK, logprobs_SK, count_S = jax.lax.while_loop(more, one, start)
    return cache, rows, Decoded(tokens_SK, logprobs_SK, count_S, rows.automaton, rows.active)

  def extend(self, params: Any, cache: cache_lib.Cache, rows: Rows, lanes: dict) -> Any:
    cache, _ = self._write(params, cache, lanes)
    return cache, _set_rows(rows, lanes)

  def score(self, params: Any, cache: cache_lib.Cache, rows: Rows, lanes: dict) -> Any:
    cache, x_RCD = self._write(params, cache, lanes)
    C = lanes['tokens'].shape[1]
    following = jnp.roll(lanes['tokens'], -1, axis=1)
    is_last = jnp.arange(C) == lanes['count'][:, None] - 1
    target_RC = jnp.where(is_last, lanes['pending'][:, None], following)
    temperature = jnp.where(lanes['temperature'] > 0, lanes['temperature'], 1.0)

    def column(x_RD: jax.Array, target_R: jax.Array) -> jax.Array:
      logits_RV = self._logits(params, x_RD) / temperature[:, None]
      logprobs_RV = jax.nn.log_softmax(logits_RV)
      return jnp.take_along_axis(logprobs_RV, target_R[:, None], axis=-1)[:, 0]

    # One column at a time: the logits of a whole chunk never exist.
    columns = (x_RCD.swapaxes(0, 1), target_RC.T)
    logprobs_CR = jax.lax.map(lambda c: column(*c), columns)
    return cache, _set_rows(rows, lanes), logprobs_CR.T

  def fork(self, params: Any, cache: cache_lib.Cache, rows: Rows, lanes: dict) -> Any:
    del params
    idle = lanes['slot'] >= rows.length.shape[0]
    targets = jnp.where(idle, lanes['source'], lanes['slot'])
    return cache_lib.copy_rows(cache, lanes['source'], targets), _set_rows(rows, lanes)

  def _next(self, params: Any, cache: cache_lib.Cache, rows: Rows) -> Any:
    layers = cache_lib.Layers(cache)
    x_S1D = decoder.cached_hidden(
      params,
      self._size,
      rows.pending[:, None],
      rows.length[:, None],
      attend=layers.decode(rows.length),
      dtype=self._dtype,
    )
    logits_SV = self._logits(params, x_S1D[:, 0])
    # Keyed by the place that the new token will have in its context.
    uniform_S = sampling.uniform(rows.key, rows.length + 1)
    return layers.cache, *sampling.sample(logits_SV, uniform_S, rows.temperature)

  def _advance(self, rows: Rows, token_S: jax.Array, table: jax.Array) -> Rows:
    automaton = jnp.where(rows.active, table[rows.automaton, token_S], rows.automaton)
    left = rows.left - rows.active
    stopped = (automaton >= self._first_accept) | (left <= 0)
    return rows._replace(
      length=rows.length + rows.active,
      pending=jnp.where(rows.active, token_S, rows.pending),
      automaton=automaton,
      left=left,
      active=rows.active & ~stopped,
    )

  def _write(self, params: Any, cache: cache_lib.Cache, lanes: dict) -> Any:
    layers = cache_lib.Layers(cache)
    positions_RC = lanes['start'][:, None] + jnp.arange(lanes['tokens'].shape[1])
    x_RCD = decoder.cached_hidden(
      params,
      self._size,
      lanes['tokens'],
      positions_RC,
      attend=layers.extend(lanes['slot'], lanes['start'], lanes['count']),
      dtype=self._dtype,
    )
    return layers.cache, x_RCD

  def _logits(self, params: Any, x_ND: jax.Array) -> jax.Array:
    w_VD = decoder.unembedding(params, self._size).astype(self._dtype)
    return jnp.einsum('nd,vd->nv', x_ND, w_VD, preferred_element_type=jnp.float32)


def _set_rows(rows: Rows, lanes: dict[str, jax.Array]) -> Rows:
  """Row states after a lane's work; the stop automaton starts afresh."""

  def put(old: jax.Array, new: jax.Array) -> jax.Array:
    return old.at[lanes['slot']].set(new, mode='drop')

  return Rows(
    length=put(rows.length, lanes['start'] + lanes['count']),
    pending=put(rows.pending, lanes['pending']),
    automaton=put(rows.automaton, jnp.zeros_like(lanes['slot'])),
    left=put(rows.left, lanes['left']),
    active=put(rows.active, lanes['left'] > 0),
    key=put(rows.key, lanes['key']),
    temperature=put(rows.temperature, lanes['temperature']),
  )


def _no_rows(slots: int) -> Rows:
  zeros = np.zeros(slots, np.int32)
  return Rows(
    length=zeros,
    pending=zeros,
    automaton=zeros,
    left=zeros,
    active=np.zeros(slots, bool),
    key=np.zeros((slots, 2), np.uint32),
    temperature=np.zeros(slots, np.float32),
  )
