"""The programs of a run, traced for devices that need not be there, and what stays on a chip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import batching, sharding
from jaxsearch import config as config_lib
from jaxsearch.learner import Learner
from jaxsearch.models.decoder import Size
from jaxsearch.plan import operations
from jaxsearch.rollout import actor, sync
from jaxsearch.rollout.jitted import Jitted
from jaxsearch.text.stops import StopTable

# States of a stop automaton: more than any protocol's stops have.
_STATES = 32
# A program's name there -> what the user knows it as, and the states that it takes.
_LEARNER = {
  'logprobs': ('log-probs', ('parameters', 'frozen')),
  'reference logprobs': ('reference', ('reference', 'frozen')),
  'accumulate': ('update', ('parameters', 'frozen', 'gradients')),
  'apply': ('optimizer', ('parameters', 'moments', 'gradients')),
}


class Planned(NamedTuple):
  """One program.

  Attributes:
    name: what it does.
    traced: with shapes and shardings of its arguments.
    mesh: that it runs on.
    takes: which of the run's states are its arguments, or are given up before it runs.
    unit: of work that one call does.
    operations: of all devices of the mesh together.
    useful: the same without what is only computed again in the backward pass.
  """

  name: str
  traced: jax.stages.Traced
  mesh: Mesh
  takes: tuple[str, ...]
  unit: str
  operations: float
  useful: float


@dataclasses.dataclass(frozen=True)
class Run:
  """What is compiled and what is held.

  Attributes:
    size: of the policy.
    mesh: of training.
    states: bytes of a chip: parameters, what is frozen beneath adapters, moments, gradients,
      reference, sampling weights, cache, batches. Gradients are there while the policy is updated,
      the others always.
    parameters: how many there are.
    weights: bytes of one copy of the sampling weights.
    batch: bytes of one micro-batch of a chip.
    rows, length: of one micro-batch, of all chips together.
    programs: in the order of a step.
  """

  size: Size
  mesh: Mesh
  states: dict[str, float]
  parameters: int
  weights: float
  batch: float
  rows: int
  length: int
  programs: list[Planned]


def build(
  config: config_lib.Config,
  size: Size,
  devices: Sequence[jax.Device],
  host: Sequence[jax.Device],
) -> Run:
  """Traces everything of a run of `config` on `devices`; nothing is allocated or compiled.

  Of the learner's programs those of the longest bucket: they take the most memory.

  Args:
    config: of the run.
    size: of the policy.
    devices: of all hosts.
    host: for which the programs of one host are compiled.

  Raises:
    UserError: the mesh or the cache does not fit the devices or the policy.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  learner = Learner(config, size, mesh)
  state, reference = learner.abstract_state(), learner.weights.abstract_reference()
  merged, batch = learner.weights.abstract_merged(state.params), _batch(config, mesh)
  trained = dict(learner.traced([batch]))
  weights, sampling, jitted, local = _sampler(config, size, mesh, host, merged)
  states = {
    'parameters': held(state.params),
    'frozen': held(learner.weights.base),
    'moments': held(state.opt_state),
    'gradients': held(trained['zeros'].out_info[0]),
    'reference': 0.0 if config.learner.reference_on_host else held(reference),
    'sampling weights': held(sampling),
    'cache': held(jitted.abstract_cache()),
    'batches': held(batch) * _microbatches(config, batch),
  }
  forward = _operations(learner.trace_logprobs(state.params, batch), 0)
  # A backward pass is twice a forward one; to what is frozen there is no gradient.
  useful = (2 if learner.weights.base else 3) * forward
  programs = [
    *(_learner_program(n, trained[n], mesh, batch, useful) for n in _LEARNER if n in trained),
    _sync_program(weights.traced(merged), mesh),
  ]
  scores = bool(actor.forced_tokens(config))
  programs += _engine_programs(jitted.traced(sampling), local, config.rollout, scores=scores)
  return Run(
    size,
    mesh,
    states,
    parameters=sum(a.size for a in jax.tree.leaves(merged)),
    weights=sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(sampling)),
    batch=held(batch),
    rows=batch.tokens.shape[0],
    length=batch.tokens.shape[1],
    programs=programs,
  )


def _sampler(
  config: config_lib.Config, size: Size, mesh: Mesh, host: Sequence[jax.Device], params: Any
) -> tuple[sync.WeightSync, Any, Jitted, Mesh]:
  """The weights' way to a host, their shapes there, its programs, and the mesh of these."""
  local = sync.sampling_mesh(mesh, config.mesh.sample_tensor)
  dtype = jnp.dtype(config.policy.dtype)
  weights = sync.WeightSync(size, mesh, local, dtype)
  grid = np.array(host, dtype=object).reshape(local.devices.shape)
  own = Mesh(grid, local.axis_names, axis_types=local.axis_types)
  stops = StopTable(np.zeros((_STATES, size.vocab), np.int32), _STATES - 1, ())
  spare = actor.forced_tokens(config)
  jitted = Jitted(size, stops, config.rollout, mesh=own, dtype=dtype, spare=spare)
  return weights, weights.abstract(params, own), jitted, own


def held(tree: Any) -> float:
  """Bytes of a chip that arrays with these shapes and shardings take; none on its host."""
  leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf is not None]
  leaves = [leaf for leaf in leaves if leaf.sharding.memory_kind != 'pinned_host']
  return float(
    sum(math.prod(a.sharding.shard_shape(a.shape)) * jnp.dtype(a.dtype).itemsize for a in leaves)
  )


def _batch(config: config_lib.Config, mesh: Mesh) -> batching.Batch:
  """A micro-batch of the longest bucket, of all hosts."""
  hosts = len({device.process_index for device in mesh.devices.flat})
  place = batching.Place(0, hosts, mesh.shape['data'] * mesh.shape['fsdp'])
  longest = dataclasses.replace(config.learner, buckets=config.learner.buckets[-1:])
  (one,) = batching.empty(longest, place)
  at = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct((a.shape[0] * hosts, *a.shape[1:]), a.dtype, sharding=at), one
  )


def _microbatches(config: config_lib.Config, batch: batching.Batch) -> float:
  """How many of this size a batch of rollouts fills."""
  rows = config.algo.questions_per_step * config.algo.group_size
  return max(1.0, rows / batch.tokens.shape[0])


def _sync_program(traced: jax.stages.Traced, mesh: Mesh) -> Planned:
  """The sampler has given up its old weights by then."""
  takes = ('parameters', 'sampling weights')
  return Planned('weight sync', traced, mesh, takes, 'all weights', 0.0, 0.0)


def _operations(traced: jax.stages.Traced, seen: int) -> float:
  return operations.count(traced.jaxpr.jaxpr, seen)


def _learner_program(
  name: str, traced: jax.stages.Traced, mesh: Mesh, batch: batching.Batch, useful: float
) -> Planned:
  shown, takes = _LEARNER[name]
  unit = 'all weights' if name == 'apply' else '{} rows of {:,}'.format(*batch.tokens.shape)
  made = _operations(traced, 0)
  return Planned(shown, traced, mesh, takes, unit, made, useful if name == 'accumulate' else made)


def _engine_programs(
  traced: dict[str, jax.stages.Traced], mesh: Mesh, rollout: config_lib.Rollout, *, scores: bool
) -> list[Planned]:
  """Of one host; rows are full, or as full as the pages allow: the most that they can read."""
  replicas = mesh.shape['replica']
  chunk = f'{rollout.extend_rows * replicas} chunks of {rollout.extend_tokens}'
  units = {
    'decode': f'a step of {rollout.slots * replicas} rows',
    'extend': chunk,
    'score': chunk,
    'fork': f'{rollout.extend_rows * replicas} rows',
  }
  names = [name for name in units if scores or name != 'score']
  made = {name: _operations(traced[name], rollout.context_tokens) for name in names}
  takes = ('sampling weights', 'cache')
  return [
    Planned(name, traced[name], mesh, takes, units[name], made[name], made[name]) for name in names
  ]
