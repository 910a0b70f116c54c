"""The policy at work on this host: weights in, scored trajectories out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch import config as config_lib
from jaxsearch import plugins, trajectories
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.text import stops as stops_lib
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Task, Trajectory


class Actor:
  """Opens what a rollout needs and keeps it warm.

  Attributes:
    protocol: the opened protocol.
    tokenizer: of the policy.
  """

  def __init__(
    self, config: config_lib.Config, size: decoder.Size, tokenizer: Tokenizer, training_mesh: Mesh
  ):
    mesh = sampling_mesh(training_mesh, config.mesh.sample_tensor)
    dtype = jnp.dtype(config.policy.dtype)
    self.tokenizer = tokenizer
    self.protocol = plugins.load('protocols', config.protocol.name).open(config.protocol, tokenizer)
    stops = stops_lib.compile(self.protocol.stops, tokenizer)
    self._sync = WeightSync(size, training_mesh, mesh, dtype)
    self._engine = Engine(size, stops, config.rollout, mesh=mesh, dtype=dtype)
    self._reward = plugins.load('rewards', config.reward.name).reward
    self._sampler = Sampler(
      self._engine,
      protocol=self.protocol,
      tokenizer=tokenizer,
      stops=stops,
      rollout=config.rollout,
      seed=config.seed,
    )

  def load(self, params: decoder.Params) -> None:
    """Takes the learner's weights for everything rolled out from now on; a collective."""
    self._engine.load(self._sync(params))

  def warmup(self) -> None:
    """Compiles every program of the engine; `load` comes first."""
    self._engine.warmup()

  def rollout(
    self, tasks: Sequence[Task], *, pool: Pool, top_k: int, temperature: float
  ) -> list[Trajectory]:
    """Rolls out and scores every task.

    Args:
      tasks: those of one question stand next to each other.
      pool: where the searches go.
      top_k: documents per query.
      temperature: 0 for greedy.

    Returns:
      one trajectory a task, in their order, with `rewards`.
    """
    done = self._sampler.rollout(tasks, pool=pool, top_k=top_k, temperature=temperature)
    scored = []
    for _, group in itertools.groupby(done, key=lambda t: t.task.position):
      scored += self._score(list(group))
    return scored

  def measure(self) -> dict[str, float]:
    """Figures of the rollouts since the last call."""
    return self._sampler.measure()

  def _score(self, group: Sequence[Trajectory]) -> list[Trajectory]:
    responses = [trajectories.respond(t, self.tokenizer) for t in group]
    rewards = self._reward(group[0].task.question, responses, self.protocol)
    return [dataclasses.replace(t, rewards=r) for t, r in zip(group, rewards)]
