"""The policy at work on this host: weights in, scored trajectories out."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsearch import config as config_lib
from jaxsearch import plugins, trajectories
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rewards._contract import Rows, ScoreRequest
from jaxsearch.rollout.dialogue import Dialogue
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.rollout.scorer import Scorer
from jaxsearch.rollout.sync import WeightSync, sampling_mesh
from jaxsearch.text import stops as stops_lib
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Task, Trajectory, UserError

# Tokens that a reward may force behind a full context.
_FORCED = 256


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
    _check_span(config.algo.untrained_span, self.protocol.span_names)
    if 0 < size.positions < config.rollout.context_tokens:
      raise UserError(
        f'rollout.context_tokens is {config.rollout.context_tokens}; allowed: at most '
        f'{size.positions}, the longest context that the policy was trained for.'
      )
    stops = stops_lib.compile(self.protocol.stops, tokenizer)
    self._sync = WeightSync(size, training_mesh, mesh, dtype)
    self._reward = plugins.load('rewards', config.reward.name).reward
    spare = forced_tokens(config)
    self._engine = Engine(size, stops, config.rollout, mesh=mesh, dtype=dtype, spare=spare)
    self._scorer = Scorer(self._engine, tokenizer)
    dialogue = Dialogue(self.protocol, tokenizer, stops, config.rollout, seed=config.seed)
    self._sampler = Sampler(self._engine, Extender(self._engine), dialogue, config.rollout)

  def load(self, params: decoder.Params) -> None:
    """Takes the learner's weights for everything rolled out from now on; a collective."""
    self._engine.unload()  # Two copies of the weights would decide what fits.
    self._engine.load(self._sync(params))

  def warmup(self) -> None:
    """Compiles every program of the engine; `load` comes first."""
    self._engine.warmup(scores=inspect.isgeneratorfunction(self._reward))

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
    groups = [list(g) for _, g in itertools.groupby(done, key=lambda t: t.task.position)]
    return [
      dataclasses.replace(t, rewards=row)
      for group, rows in zip(groups, self._judge(groups), strict=True)
      for t, row in zip(group, rows, strict=True)
    ]

  def measure(self) -> dict[str, float]:
    """Figures of the rollouts since the last call."""
    return self._sampler.measure()

  def _judge(self, groups: Sequence[Sequence[Trajectory]]) -> list[Rows]:
    """The rewards of every group; what rewards ask the engine is answered for all together."""
    judging = [
      self._reward(
        group[0].task.question,
        [trajectories.respond(t, self.tokenizer) for t in group],
        self.protocol,
      )
      for group in groups
    ]
    if not inspect.isgeneratorfunction(self._reward):
      return judging
    rows: dict[int, Rows] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(groups)))
    firsts = np.cumsum([0, *map(len, groups)])
    flat = [t for group in groups for t in group]
    while answers:
      asked: list[tuple[int, ScoreRequest]] = []
      for i, answer in answers.items():
        try:
          asked += [(i, request) for request in judging[i].send(answer)]
        except StopIteration as stop:
          rows[i] = stop.value
      named = [dataclasses.replace(r, rollout=int(firsts[i]) + r.rollout) for i, r in asked]
      scored = self._scorer.score(flat, named)
      answers = {i: [] for i in answers if i not in rows}
      for (i, _), logprobs in zip(asked, scored, strict=True):
        answers[i].append(logprobs)
    return [rows[i] for i in range(len(groups))]


def forced_tokens(config: config_lib.Config) -> int:
  """Tokens that the configured reward may force behind a full context; 0 if it asks nothing."""
  reward = plugins.load('rewards', config.reward.name).reward
  return _FORCED if inspect.isgeneratorfunction(reward) else 0


def _check_span(name: str, known: Sequence[str]) -> None:
  if name and name not in known:
    raise UserError(
      f'algo.untrained_span is {name!r}; allowed with this protocol: {", ".join(known)}.'
      f'{plugins.nearest(name, known)}'
    )
