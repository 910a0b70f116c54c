"""The traced functions of the engine: decode, extend, score and fork over one replica's slots.

They are pure; `Engine` jits them, donates cache and rows, and splits them over the replicas. Slot
numbers are local to a replica.
"""

from __future__ import annotations

import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxsearch.models import decoder, packed
from jaxsearch.rollout import sampling


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
    forced: int32 [S,F], the id that must be sampled at each place of the context, or -1; F is 0
      where rows are never replayed.
  """

  length: jax.Array
  pending: jax.Array
  automaton: jax.Array
  left: jax.Array
  active: jax.Array
  key: jax.Array
  temperature: jax.Array
  forced: jax.Array


class Decoded(NamedTuple):
  """What a decode program hands back; arrays over its rows.

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


class Programs:
  """The traced functions; shapes are one replica's."""

  def __init__(
    self,
    size: decoder.Size,
    caches: types.ModuleType,
    first_accept: int,
    steps: int,
    dtype: Any,
  ):
    """`caches` is a file of rollout/caches, and says how matrices lie."""
    self._size, self._caches = size, caches
    self._first_accept, self._steps, self._dtype = first_accept, steps, dtype
    self._weights = packed if caches.PACKED else decoder

  def decode(self, params: Any, cache: Any, rows: Rows, once: dict[str, jax.Array]) -> Any:
    """Up to `once['steps']` steps of the rows in `once['slots']`.

    They end early once `once['stops']` rows have stopped.
    """
    slots_S, everyone = once['slots'], rows
    S = slots_S.shape[0]
    compact = everyone.length.shape[0] > S
    if compact:
      rows = jax.tree.map(lambda a: a.at[slots_S].get(mode='fill', fill_value=0), everyone)
    begun = rows.active.sum()
    empty = (jnp.zeros((S, self._steps), jnp.int32), jnp.zeros((S, self._steps)))

    def more(carry: Any) -> jax.Array:
      step, _, rows, *_ = carry
      active = rows.active.sum()
      return (step < once['steps']) & (active > 0) & (begun - active < once['stops'])

    def one(carry: Any) -> Any:
      step, cache, rows, tokens_SK, logprobs_SK, count_S = carry
      cache, token_S, logprob_S = self._next(params, cache, rows, once['where'])
      tokens_SK = tokens_SK.at[:, step].set(jnp.where(rows.active, token_S, 0))
      logprobs_SK = logprobs_SK.at[:, step].set(jnp.where(rows.active, logprob_S, 0.0))
      count_S = count_S + rows.active
      rows = self._advance(rows, token_S, once['table'])
      return step + 1, cache, rows, tokens_SK, logprobs_SK, count_S

    start = (0, cache, rows, *empty, jnp.zeros(S, jnp.int32))
    _, cache, rows, tokens_SK, logprobs_SK, count_S = jax.lax.while_loop(more, one, start)
    out = Decoded(tokens_SK, logprobs_SK, count_S, rows.automaton, rows.active)
    if compact:
      put = lambda old, new: old.at[slots_S].set(new, mode='drop')
      rows = jax.tree.map(put, everyone, rows)
    return cache, rows, out

  def extend(self, params: Any, cache: Any, rows: Rows, lanes: dict) -> Any:
    cache, _ = self._write(params, cache, lanes)
    return cache, _set_rows(rows, lanes)

  def score(self, params: Any, cache: Any, rows: Rows, lanes: dict) -> Any:
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

  def fork(self, params: Any, cache: Any, rows: Rows, lanes: dict) -> Any:
    """Copies entries of the cache, rows or pages, from `source` to `target`."""
    del params
    return copy_entries(cache, lanes['source'], lanes['target']), _set_rows(rows, lanes)

  def _next(self, params: Any, cache: Any, rows: Rows, where: jax.Array) -> Any:
    layers = self._caches.Layers(cache)
    x_S1D = decoder.cached_hidden(
      params,
      self._size,
      rows.pending[:, None],
      rows.length[:, None],
      attend=layers.decode(where, rows.length, rows.active),
      dtype=self._dtype,
      project=self._weights.project,
    )
    logits_SV = self._logits(params, x_S1D[:, 0])
    # Keyed by the place that the new token will have in its context.
    uniform_S = sampling.uniform(rows.key, rows.length + 1)
    token_S, logprob_S = _sample(logits_SV, uniform_S, rows.temperature)
    if rows.forced.shape[1]:
      forced_S = jnp.take_along_axis(rows.forced, rows.length[:, None] + 1, axis=1)[:, 0]
      token_S = jnp.where(forced_S >= 0, forced_S, token_S)
    return layers.cache, token_S, logprob_S

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

  def _write(self, params: Any, cache: Any, lanes: dict) -> Any:
    layers = self._caches.Layers(cache)
    positions_RC = lanes['start'][:, None] + jnp.arange(lanes['tokens'].shape[1])
    x_RCD = decoder.cached_hidden(
      params,
      self._size,
      lanes['tokens'],
      positions_RC,
      attend=layers.extend(lanes['where'], lanes['start'], lanes['count']),
      dtype=self._dtype,
      project=self._weights.project,
    )
    return layers.cache, x_RCD

  def _logits(self, params: Any, x_ND: jax.Array) -> jax.Array:
    return self._weights.logits(params, self._size, x_ND, dtype=self._dtype)


def _sample(
  logits_SV: jax.Array, uniform_S: jax.Array, temperature_S: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One token a row and its log-probability; a split vocabulary stays where it is."""
  tensor = jax.sharding.get_abstract_mesh().shape.get('tensor', 1)
  if tensor == 1 or logits_SV.shape[1] % tensor:
    # Whole on every device of a replica: cumulative sums over a split vocabulary would permute
    # pieces, and XLA's CPU runtime makes all replicas meet for that, whose loops differ in length.
    logits_SV = jax.lax.with_sharding_constraint(logits_SV, PartitionSpec())
    return sampling.sample(logits_SV, uniform_S, temperature_S)
  whole = PartitionSpec()
  split = jax.shard_map(
    functools.partial(sampling.sample_over, axis='tensor'),
    in_specs=(PartitionSpec(None, 'tensor'), whole, whole),
    out_specs=(whole, whole),
    axis_names={'tensor'},
    check_vma=False,
  )
  return split(logits_SV, uniform_S, temperature_S)


def _set_rows(rows: Rows, lanes: dict[str, jax.Array]) -> Rows:
  """Row states after a lane's work."""

  def put(old: jax.Array, new: jax.Array) -> jax.Array:
    return old.at[lanes['row']].set(new, mode='drop')

  return Rows(
    length=put(rows.length, lanes['start'] + lanes['count']),
    pending=put(rows.pending, lanes['pending']),
    automaton=put(rows.automaton, lanes['automaton']),
    left=put(rows.left, lanes['left']),
    active=put(rows.active, lanes['left'] > 0),
    key=put(rows.key, lanes['key']),
    temperature=put(rows.temperature, lanes['temperature']),
    forced=put(rows.forced, lanes['forced']),
  )


def copy_entries(cache: Any, sources_N: jax.Array, targets_N: jax.Array) -> Any:
  """Copies along the first axis of all arrays, one by one; source = target does nothing."""

  def one(index: jax.Array, cache: Any) -> Any:
    def copy(array: jax.Array) -> jax.Array:
      entry = jax.lax.dynamic_index_in_dim(array, sources_N[index], keepdims=True)
      return jax.lax.dynamic_update_index_in_dim(array, entry, targets_N[index], 0)

    return jax.tree.map(copy, cache)

  return jax.lax.fori_loop(0, sources_N.shape[0], one, cache)


def no_rows(slots: int, forced: int) -> Rows:
  """The state of slots that hold nothing yet; `forced` places can be forced."""
  zeros = np.zeros(slots, np.int32)
  return Rows(
    length=zeros,
    pending=zeros,
    automaton=zeros,
    left=zeros,
    active=np.zeros(slots, bool),
    key=np.zeros((slots, 2), np.uint32),
    temperature=np.zeros(slots, np.float32),
    forced=np.full((slots, forced), -1, np.int32),
  )
