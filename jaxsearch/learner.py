"""The learner: `update` turns a state and the micro-batches of one step into the next state.

The loss is `algo/objective.py`. Its denominators, like those of every metric, are summed over all
micro-batches and hosts before the first gradient: cutting the batch differently changes nothing but
the rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch import plugins, sharding
from jaxsearch import weights as weights_lib
from jaxsearch.algo import kl, objective, optimizer, shaping
from jaxsearch.algo.objective import Batch, Sums
from jaxsearch.forward import Forward

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """step: int32 [], updates done. params, opt_state: split over the mesh by one table."""

  step: jax.Array
  params: Params
  opt_state: Any


class Learner:
  """Compiled programs of one policy on one mesh; holds no state that changes."""

  def __init__(self, config: config_lib.Config, size: Any, mesh: Mesh, start: Params | None = None):
    """Looks up the functions that the configuration names; compiles no update.

    Args:
      config: of the run.
      size: of the policy.
      mesh: for training.
      start: the policy that adapters go on; read only if there are any.

    Raises:
      UserError: for a name that does not exist, or parameters that do not fit the mesh.
    """
    self.mesh = mesh
    self._config = config
    self.weights = weights_lib.Weights(config, size, mesh, start)
    self._forward = Forward(config, size, mesh, self.weights.project)
    self._objective = objective.Objective(config.algo, config.rollout.policy_tokens)
    self._schedule = optimizer.schedule(config.optimizer)
    self._optimizer = optimizer.make(config.optimizer)
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    places = self._places()
    self._init_state = jax.jit(self._fresh, out_shardings=places)
    self._zeros = jax.jit(
      lambda params: (jax.tree.map(jnp.zeros_like, params), *self._objective.zeros()),
      out_shardings=(places.params, self._everywhere, self._everywhere),
    )
    self._count = jax.jit(self._add_counts, out_shardings=self._everywhere)
    self._accumulate = jax.jit(
      self._add_gradients,
      donate_argnames=('grads', 'sums'),
      out_shardings=(places.params, self._everywhere),
    )
    self._apply = jax.jit(
      self._step, donate_argnames='state', out_shardings=(places, self._everywhere)
    )
    rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    self._logprobs = jax.jit(
      lambda p, base, batch: self._forward(p, base, batch)[0], out_shardings=rows
    )
    estimate = plugins.function(kl, config.algo.kl)
    self._penalize = jax.jit(
      lambda batch: shaping.penalize(batch, estimate, config.algo.kl_coef), out_shardings=rows
    )
    self._total = jax.jit(shaping.total, out_shardings=self._everywhere)
    self._standardize = jax.jit(shaping.standardize, out_shardings=rows)

  def init_state(self, params: Params) -> TrainState:
    """The state before the first update; `params` are copied, so they survive its donation."""
    return self._init_state(self.weights.trained(params))

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state, for restoring a checkpoint into."""
    shapes = jax.eval_shape(self._fresh, self.weights.abstract)
    place = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)
    return jax.tree.map(place, shapes, self._places())

  def place(self, batch: Batch) -> Batch:
    """This host's rows as numpy arrays -> the global micro-batch on the mesh."""
    return sharding.place_rows(batch, self.mesh)

  def compile(self, batches: Sequence[Batch]) -> None:
    """Compiles everything that `update` and `prepare` need for batches of these shapes."""
    for _, program in self.traced(batches):
      program.lower().compile()

  def traced(self, batches: Sequence[Batch]) -> Iterator[tuple[str, jax.stages.Traced]]:
    """(name, program) of all that `compile` compiles; shapes with shardings do for `batches`."""
    state, base = self.abstract_state(), self.weights.base
    reference = self.weights.abstract_reference()
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=self._everywhere)
    sums, denominators = jax.tree.map(lambda _: scalar, self._objective.zeros())
    yield 'zeros', self._zeros.trace(state.params)
    yield 'apply', self._apply.trace(state=state, grads=state.params)
    for batch in batches:
      algo = self._config.algo
      if algo.old_logprobs == 'learner':
        yield 'logprobs', self.trace_logprobs(state.params, batch)
      if reference is not None:
        yield 'reference logprobs', self.trace_logprobs(reference, batch)
      if algo.kl_coef:
        batch = dataclasses.replace(batch, reference_logprobs=batch.sampler_logprobs)
      if algo.old_logprobs == 'learner':
        batch = dataclasses.replace(batch, old_logprobs=batch.sampler_logprobs)
      if algo.kl_coef and algo.kl_place == 'reward':
        yield 'penalize', self._penalize.trace(batch)
      if algo.whiten:
        number = np.float32(0.0)
        yield 'total', self._total.trace(batch, number)
        yield 'standardize', self._standardize.trace(batch, number, number)
      yield 'count', self._count.trace(denominators, batch)
      gradients = {'grads': state.params, 'sums': sums}
      given = (state.params, base, batch, denominators)
      yield 'accumulate', self._accumulate.trace(*given, **gradients)

  def logprobs(self, params: Params, batch: Batch) -> jax.Array:
    """log p of every token under `params`, [B,T] float32, 0 at entry 0."""
    return self._logprobs(params, self.weights.base, batch)

  def trace_logprobs(self, params: Params, batch: Batch) -> jax.stages.Traced:
    """The program of `logprobs`, of arrays or their shapes."""
    return self._logprobs.trace(params, self.weights.base, batch)

  def prepare(
    self, params: Params, reference: Params | None, batches: Sequence[Batch]
  ) -> list[Batch]:
    """What is fixed over all updates of a batch of rollouts: log-probabilities and advantages.

    Args:
      params: the policy before the first update.
      reference: frozen, for the KL, as `weights.reference` makes it; None without one.
      batches: all micro-batches of all updates, as `place` makes them.

    Returns:
      The same batches with reference and old log-probabilities, and shaped advantages, as far as
      the configuration asks for them.
    """
    algo, batches = self._config.algo, list(batches)
    reference = self.weights.at_hand(reference)
    for i, batch in enumerate(batches):
      more = {}
      if reference is not None:
        more['reference_logprobs'] = self.logprobs(reference, batch)
      if algo.old_logprobs == 'learner':
        more['old_logprobs'] = self.logprobs(params, batch)
      batch = dataclasses.replace(batch, **more)
      is_penalized = algo.kl_coef and algo.kl_place == 'reward'
      batches[i] = self._penalize(batch) if is_penalized else batch
    return self._whiten(batches) if algo.whiten else batches

  def update(
    self, state: TrainState, microbatches: Sequence[Batch], counted: Sequence[Batch] = ()
  ) -> tuple[TrainState, dict[str, float]]:
    """One optimiser step on all of `microbatches`; consumes `state` and returns the next.

    Args:
      state: donated: its arrays are gone afterwards.
      microbatches: global arrays (`place`), the same number and shapes on every host; forward and
        backward run once over each.
      counted: further ones whose gradient is known to be zero: they enter the denominators of the
        loss and its terms, and nothing else.

    Returns:
      The next state, and metrics of this update, before it took effect.
    """
    grads, sums, denominators = self._zeros(state.params)
    for batch in microbatches:
      denominators = self._count(denominators, batch)
    whole = denominators
    for batch in counted:
      whole = self._count(whole, batch)
    denominators = whole | {name: denominators[name] for name in objective.MEASURED}
    for batch in microbatches:
      given = (state.params, self.weights.base, batch, denominators)
      grads, sums = self._accumulate(*given, grads=grads, sums=sums)
    state, metrics = self._apply(state=state, grads=grads)
    metrics = jax.device_get({**metrics, **sums})
    return state, {name: float(value) for name, value in metrics.items()}

  def _whiten(self, batches: Sequence[Batch]) -> list[Batch]:
    def totals(mean: Any) -> list[float]:
      parts = [self._total(batch, np.float32(mean)) for batch in batches]
      return [sum(map(float, part)) for part in zip(*jax.device_get(parts), strict=True)]

    if not batches:
      return []
    tokens, values, _ = totals(0.0)
    mean = values / max(tokens, 1.0)
    variance = totals(mean)[2] / max(tokens, 1.0)
    scale = (np.float32(mean), np.float32(variance))
    return [self._standardize(batch, *scale) for batch in batches]

  def _fresh(self, params: Params) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

  def _places(self, *, at_hand: bool = False) -> TrainState:
    """Where a state lies; `at_hand`: while it is updated."""
    params = self.weights.places
    hosted = self._config.learner.moments_on_host and not at_hand
    lies = weights_lib.on_host if hosted else lambda at: at
    # Moments lie where their parameters lie; what is no parameter (counters) is everywhere.
    opt_state = optax.tree_utils.tree_map_params(
      self._optimizer,
      lambda moment, at: moment if isinstance(moment, optax.MaskedNode) else lies(at),
      jax.eval_shape(self._optimizer.init, self.weights.abstract),
      params,
      transform_non_params=lambda _: self._everywhere,
      is_leaf=lambda moment: isinstance(moment, optax.MaskedNode),
    )
    return TrainState(self._everywhere, params, opt_state)

  def _add_counts(self, denominators: Sums, batch: Batch) -> Sums:
    return jax.tree.map(jnp.add, denominators, self._objective.denominators(batch))

  def _add_gradients(
    self,
    params: Params,
    base: Params,
    batch: Batch,
    denominators: Sums,
    *,
    grads: Params,
    sums: Sums,
  ) -> tuple[Params, Sums]:
    more, more_sums = jax.grad(self._loss, has_aux=True)(params, base, batch, denominators)
    return jax.tree.map(jnp.add, grads, more), self._objective.add(sums, more_sums)

  def _loss(
    self, params: Params, base: Params, batch: Batch, denominators: Sums
  ) -> tuple[jax.Array, Sums]:
    return self._objective.loss(*self._forward(params, base, batch), batch, denominators)

  def _step(self, *, state: TrainState, grads: Params) -> tuple[TrainState, Sums]:
    moments = state.opt_state
    if self._config.learner.moments_on_host:
      moments = jax.device_put(moments, self._places(at_hand=True).opt_state)
    updates, opt_state = self._optimizer.update(grads, moments, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {'actor/grad_norm': optax.tree.norm(grads), 'actor/lr': self._schedule(state.step)}
    return TrainState(state.step + 1, params, opt_state), metrics
