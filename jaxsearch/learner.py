"""The learner: `update` turns a state and the micro-batches of one step into the next state.

The loss of an update is

  (1 / denominator) sum over rows and kept tokens of
      coefficient * (policy_loss + kl_coef * KL - entropy_coef * entropy)

with the coefficient and the denominator of `algo.loss_norm`. Denominators, like those of every
metric, are summed over all micro-batches and hosts before the first gradient: cutting the batch
differently changes nothing but the rounding. Kept tokens are those of `loss_mask` inside the row's
length, entry 0 excepted, of rows with weight above 0. All others are taken out with `where` before
any arithmetic and again at the sum, so whatever stands there, NaN included, never arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch import config as config_lib
from jaxsearch import plugins, sharding
from jaxsearch.algo import logprobs as logprobs_lib
from jaxsearch.algo import losses, norms, optimizer

Params = Any
Sums = dict[str, jax.Array]


@flax.struct.dataclass
class Batch:
  """Rows of one micro-batch. Entry t of a [B,T] array speaks of token t; entry 0 is never trained.

  Attributes:
    tokens: int32 [B,T], right-padded with anything.
    lengths: int32 [B]; 0 for a row that fills up the shape.
    loss_mask: bool [B,T], what is trained.
    sampler_logprobs: float32 [B,T], read where `sampled_mask`.
    advantages: float32 [B,T], read where `loss_mask`.
    weights: float32 [B]; 0 takes the row out of losses, denominators and metrics.
    old_logprobs: float32 [B,T], denominator of the ratio; None: the sampler's.
    reference_logprobs: float32 [B,T], needed when kl_coef > 0.
    sampled_mask: bool [B,T], what the policy sampled; None: all of `loss_mask`. A trained token
      that nobody sampled has ratio 1 and no part in the sampler-learner gap.
  """

  tokens: jax.Array
  lengths: jax.Array
  loss_mask: jax.Array
  sampler_logprobs: jax.Array
  advantages: jax.Array
  weights: jax.Array
  old_logprobs: jax.Array | None = None
  reference_logprobs: jax.Array | None = None
  sampled_mask: jax.Array | None = None


@flax.struct.dataclass
class TrainState:
  """step: int32 [], updates done. params, opt_state: split over the mesh by one table."""

  step: jax.Array
  params: Params
  opt_state: Any


class Learner:
  """Compiled programs of one policy on one mesh; holds no state that changes."""

  def __init__(self, config: config_lib.Config, size: Any, mesh: Mesh):
    """Looks up the functions that the configuration names; compiles nothing.

    Raises:
      UserError: for a name that does not exist, or parameters that do not fit the mesh.
    """
    self.mesh = mesh
    self._config = config
    self._size = size
    self._model = plugins.load('models', type(size).__module__.rpartition('.')[2])
    self._policy_loss = plugins.function(losses, config.algo.policy_loss)
    self._kl = plugins.function(losses, config.algo.kl)
    self._norm = plugins.function(norms, config.algo.loss_norm)
    self._schedule = optimizer.schedule(config.optimizer)
    self._optimizer = optimizer.make(config.optimizer)
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    places = self._places()
    self._init_state = jax.jit(self._fresh, out_shardings=places)
    self._zeros = jax.jit(
      lambda params: (jax.tree.map(jnp.zeros_like, params), *self._zero_sums()),
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
    self._logprobs = jax.jit(lambda p, b: self._token_logprobs(p, b)[0], out_shardings=rows)

  def init_state(self, params: Params) -> TrainState:
    """The state before the first update; `params` are copied, so they survive its donation."""
    return self._init_state(params)

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state, for restoring a checkpoint into."""
    shapes = jax.eval_shape(self._fresh, self._abstract_params())
    place = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)
    return jax.tree.map(place, shapes, self._places())

  def place(self, batch: Batch) -> Batch:
    """This host's rows as numpy arrays -> the global micro-batch on the mesh."""
    return sharding.place_rows(batch, self.mesh)

  def compile(self, batches: Sequence[Batch]) -> None:
    """Compiles everything that `update` and `logprobs` need for batches of these shapes."""
    state = self.abstract_state()
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=self._everywhere)
    sums, denominators = jax.tree.map(lambda _: scalar, self._zero_sums())
    self._zeros.lower(state.params).compile()
    self._apply.lower(state=state, grads=state.params).compile()
    for batch in batches:
      if self._config.algo.kl_coef:
        self._logprobs.lower(state.params, batch).compile()
        batch = batch.replace(reference_logprobs=batch.sampler_logprobs)
      self._count.lower(denominators, batch).compile()
      gradients = {'grads': state.params, 'sums': sums}
      self._accumulate.lower(state.params, batch, denominators, **gradients).compile()

  def logprobs(self, params: Params, batch: Batch) -> jax.Array:
    """log p of every token under `params`, [B,T] float32, 0 at entry 0: the frozen reference."""
    return self._logprobs(params, batch)

  def update(
    self, state: TrainState, microbatches: Sequence[Batch]
  ) -> tuple[TrainState, dict[str, float]]:
    """One optimiser step on all of `microbatches`; consumes `state` and returns the next.

    Args:
      state: donated: its arrays are gone afterwards.
      microbatches: global arrays (`place`), the same number and shapes on every host; forward and
        backward run once over each.

    Returns:
      The next state, and metrics of this update, before it took effect.
    """
    grads, sums, denominators = self._zeros(state.params)
    for batch in microbatches:
      denominators = self._count(denominators, batch)
    for batch in microbatches:
      grads, sums = self._accumulate(state.params, batch, denominators, grads=grads, sums=sums)
    state, metrics = self._apply(state=state, grads=grads)
    metrics = jax.device_get({**metrics, **sums})
    return state, {name: float(value) for name, value in metrics.items()}

  def _fresh(self, params: Params) -> TrainState:
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

  def _abstract_params(self) -> Params:
    return jax.eval_shape(lambda: self._model.init(jax.random.key(0), self._size))

  def _places(self) -> TrainState:
    abstract = self._abstract_params()
    params = sharding.shardings(abstract, self._model.AXES, self.mesh)
    # Moments lie where their parameters lie; what is no parameter (counters) is everywhere.
    opt_state = optax.tree_utils.tree_map_params(
      self._optimizer,
      lambda _, at: at,
      jax.eval_shape(self._optimizer.init, abstract),
      params,
      transform_non_params=lambda _: self._everywhere,
    )
    return TrainState(self._everywhere, params, opt_state)

  def _token_logprobs(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    policy, model = self._config.policy, self._model
    T = batch.tokens.shape[1]
    # Padding may hold anything, ids that do not exist included: an embedding of NaN would pass
    # through attention, where a weight of 0 does not stop it.
    tokens_BT = jnp.where(jnp.arange(T) < batch.lengths[:, None], batch.tokens, 0)
    x_BTD = model.hidden(
      params, self._size, tokens_BT, dtype=jnp.dtype(policy.dtype), remat=policy.remat
    )
    return logprobs_lib.token_logprobs(
      x_BTD,
      model.unembedding(params, self._size),
      tokens_BT,
      temperature=self._config.rollout.temperature,
      # Per group of devices that shares rows, so that the products keep their shape on any mesh.
      chunk=self._config.learner.logprob_chunk * self.mesh.shape['data'] * self.mesh.shape['fsdp'],
    )

  def _add_counts(self, denominators: Sums, batch: Batch) -> Sums:
    kept_BT, sampled_BT = _kept(batch)
    _, share = self._norm(kept_BT, batch.weights, self._config.rollout.policy_tokens)
    weights_B1 = batch.weights[:, None]
    counts = {'loss': share, 'tokens': jnp.sum(kept_BT * weights_B1)}
    counts['sampled'] = jnp.sum(sampled_BT * weights_B1)
    return jax.tree.map(jnp.add, denominators, counts)

  def _add_gradients(
    self, params: Params, batch: Batch, denominators: Sums, *, grads: Params, sums: Sums
  ) -> tuple[Params, Sums]:
    new_grads, new_sums = jax.grad(self._loss, has_aux=True)(params, batch, denominators)
    grads = jax.tree.map(jnp.add, grads, new_grads)
    largest = {name: jnp.maximum(sums[name], new_sums[name]) for name in sums if 'max' in name}
    return grads, {name: sums[name] + new_sums[name] for name in sums} | largest

  def _loss(self, params: Params, batch: Batch, denominators: Sums) -> tuple[jax.Array, Sums]:
    algo = self._config.algo
    new_BT, entropies_BT = self._token_logprobs(params, batch)
    kept_BT, sampled_BT = _kept(batch)
    new_BT = jnp.where(kept_BT, new_BT, 0.0)
    old_BT = _old_logprobs(batch, jax.lax.stop_gradient(new_BT), kept_BT, sampled_BT)
    advantages_BT = jnp.where(kept_BT, batch.advantages, 0.0)
    coefficients_BT, _ = self._norm(kept_BT, batch.weights, self._config.rollout.policy_tokens)

    def mean(values_BT: jax.Array, weights_BT: jax.Array, denominator: jax.Array) -> jax.Array:
      total = jnp.sum(jnp.where(weights_BT > 0, values_BT * weights_BT, 0.0))
      return total / jnp.where(denominator > 0, denominator, 1.0)

    loss_mean = lambda values_BT: mean(values_BT, coefficients_BT, denominators['loss'])
    bounds = {'clip_low': algo.clip_low, 'clip_high': algo.clip_high}
    losses_BT, clipped_BT = self._policy_loss(new_BT, old_BT, advantages_BT, **bounds)
    sums = {'actor/pg_loss': loss_mean(losses_BT), 'actor/entropy': loss_mean(entropies_BT)}
    loss = sums['actor/pg_loss']
    if algo.entropy_coef:
      loss -= algo.entropy_coef * sums['actor/entropy']
    if algo.kl_coef:
      reference_BT = jnp.where(kept_BT, batch.reference_logprobs, 0.0)
      sums['actor/kl_loss'] = loss_mean(self._kl(new_BT, reference_BT))
      loss += algo.kl_coef * sums['actor/kl_loss']

    token_mean = lambda values_BT: mean(
      values_BT, kept_BT * batch.weights[:, None], denominators['tokens']
    )
    sums['actor/pg_clipfrac'] = token_mean(clipped_BT)
    sums['actor/ppo_kl'] = token_mean(old_BT - new_BT)
    sums['actor/ratio_mean'] = token_mean(jnp.exp(new_BT - old_BT))
    gap_BT = jnp.where(sampled_BT, jnp.abs(new_BT - batch.sampler_logprobs), 0.0)
    sampled_weights_BT = sampled_BT * batch.weights[:, None]
    gap = 'rollout_corr/logprob_abs_diff'
    sums[f'{gap}_mean'] = mean(gap_BT, sampled_weights_BT, denominators['sampled'])
    sums[f'{gap}_max'] = jnp.max(gap_BT)
    return loss, sums

  def _zero_sums(self) -> tuple[Sums, Sums]:
    zero = jnp.zeros((), jnp.float32)
    names = ['pg_loss', 'entropy', 'pg_clipfrac', 'ppo_kl', 'ratio_mean']
    names += ['kl_loss'] if self._config.algo.kl_coef else []
    names = [f'actor/{name}' for name in names]
    names += [f'rollout_corr/logprob_abs_diff_{kind}' for kind in ('mean', 'max')]
    return dict.fromkeys(names, zero), dict.fromkeys(('loss', 'tokens', 'sampled'), zero)

  def _step(self, *, state: TrainState, grads: Params) -> tuple[TrainState, Sums]:
    updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {'actor/grad_norm': optax.tree.norm(grads), 'actor/lr': self._schedule(state.step)}
    return TrainState(state.step + 1, params, opt_state), metrics


def _kept(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """(trained, trained and sampled), bool [B,T]."""
  times_T = jnp.arange(batch.tokens.shape[1])
  inside_BT = (times_T > 0) & (times_T < batch.lengths[:, None]) & (batch.weights > 0)[:, None]
  kept_BT = batch.loss_mask & inside_BT
  sampled_BT = kept_BT if batch.sampled_mask is None else kept_BT & batch.sampled_mask
  return kept_BT, sampled_BT


def _old_logprobs(
  batch: Batch, new_BT: jax.Array, kept_BT: jax.Array, sampled_BT: jax.Array
) -> jax.Array:
  """The ratio's denominator; `new_BT`, which makes the ratio 1, where there is none."""
  if batch.old_logprobs is not None:
    return jnp.where(kept_BT, batch.old_logprobs, new_BT)
  return jnp.where(sampled_BT, batch.sampler_logprobs, new_BT)
