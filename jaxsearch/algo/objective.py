"""The loss of one micro-batch as its share of the update's, and the metrics that come with it.

  (1 / denominator) sum over rows and kept tokens of
      coefficient * (importance * policy_loss + kl_coef * KL - entropy_coef * entropy)

with the coefficient and the denominator of `algo.loss_norm`, and to this every term of `algo.terms`
adds its weight times such a mean over its own tokens. Kept tokens are those of `loss_mask`
inside the row's length, entry 0 excepted, of rows with weight above 0. All others are taken out
with `where` before any arithmetic and again at the sum: a product with a mask lets NaN through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch import config as config_lib
from jaxsearch import plugins
from jaxsearch.algo import kl, losses, norms, terms
from jaxsearch.algo.terms import Outputs

Sums = dict[str, jax.Array]
Term = Callable[[Outputs], tuple[jax.Array, jax.Array]]
# Denominators of metrics alone: rows that are spared their gradient have no part in them.
MEASURED = ('tokens', 'sampled')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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


class Objective:
  """The configured loss. Its methods are pure and meant for the inside of jit."""

  def __init__(self, algo: config_lib.Algo, policy_tokens: int):
    """Looks up the functions that `algo` names.

    Args:
      algo: names and coefficients.
      policy_tokens: most tokens a row can sample; `loss_norm='constant'` divides by it.

    Raises:
      UserError: for a name that does not exist, or terms that cannot be read.
    """
    self._algo = algo
    self._policy_tokens = policy_tokens
    self._policy_loss = plugins.function(losses, algo.policy_loss)
    self._terms = _terms(algo)
    self._further = [name for name in self._terms if name.startswith('term/')]
    self._norm = plugins.function(norms, algo.loss_norm)

  def denominators(self, batch: Batch) -> Sums:
    """This micro-batch's share of what its sums are divided by; add up over the whole update."""
    kept_BT, sampled_BT = kept(batch)
    weights_B1 = batch.weights[:, None]
    tokens, sampled = jnp.sum(kept_BT * weights_B1), jnp.sum(sampled_BT * weights_B1)
    unknown_BT = jnp.zeros(kept_BT.shape, jnp.float32)
    outputs = _outputs(batch, unknown_BT, unknown_BT)
    over = {'loss': kept_BT}
    over |= {name: self._terms[name][1](outputs)[1] & kept_BT for name in self._further}
    shares = {
      name: self._norm(over_BT, batch.weights, self._policy_tokens)[1]
      for name, over_BT in over.items()
    }
    return shares | dict(zip(MEASURED, (tokens, sampled), strict=True))

  def loss(
    self, logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: Batch, denominators: Sums
  ) -> tuple[jax.Array, Sums]:
    """(share of the loss, shares of the metrics), to be summed over micro-batches.

    Metrics whose name ends in _max are not summed: the largest counts.

    Args:
      logprobs_BT, entropies_BT: under the parameters to be trained; float32.
      batch: the micro-batch.
      denominators: of the whole update.
    """
    algo = self._algo
    kept_BT, sampled_BT = kept(batch)
    outputs = _outputs(batch, logprobs_BT, entropies_BT)
    new_BT, old_BT = outputs.logprobs_BT, outputs.old_logprobs_BT

    def loss_mean(name: str, values_BT: jax.Array, over_BT: jax.Array) -> jax.Array:
      coefficients_BT, _ = self._norm(over_BT, batch.weights, self._policy_tokens)
      return _mean(values_BT, coefficients_BT, denominators.get(name, denominators['loss']))

    bounds = {'clip_low': algo.clip_low, 'clip_high': algo.clip_high}
    losses_BT, clipped_BT = self._policy_loss(
      new_BT, old_BT, outputs.advantages_BT, kept_BT, **bounds
    )
    if algo.importance_cap:
      losses_BT *= _importance(batch, sampled_BT, old_BT, algo.importance_cap)
    loss = loss_mean('loss', losses_BT, kept_BT)
    sums = {'actor/pg_loss': loss}
    for name, (weight, term) in self._terms.items():
      values_BT, over_BT = term(outputs)
      sums[f'actor/{name}'] = mean = loss_mean(name, values_BT, over_BT & kept_BT)
      if weight:
        loss += weight * mean

    weights_BT = kept_BT * batch.weights[:, None]
    token_mean = lambda values_BT: _mean(values_BT, weights_BT, denominators['tokens'])
    sums['actor/pg_clipfrac'] = token_mean(clipped_BT)
    sums['actor/ppo_kl'] = token_mean(old_BT - new_BT)
    sums['actor/ratio_mean'] = token_mean(jnp.exp(new_BT - old_BT))
    gap_BT = jnp.where(sampled_BT, jnp.abs(new_BT - batch.sampler_logprobs), 0.0)
    gap = _mean(gap_BT, sampled_BT * batch.weights[:, None], denominators['sampled'])
    sums['mismatch/logp_absdiff_mean'] = gap
    sums['mismatch/logp_absdiff_max'] = jnp.max(gap_BT)
    return loss, sums

  def zeros(self) -> tuple[Sums, Sums]:
    """(metrics, denominators) to start adding from."""
    zero = jnp.zeros((), jnp.float32)
    names = ['pg_loss', 'pg_clipfrac', 'ppo_kl', 'ratio_mean', *self._terms]
    names = [f'actor/{name}' for name in names]
    names += [f'mismatch/logp_absdiff_{kind}' for kind in ('mean', 'max')]
    counts = ['loss', *self._further, *MEASURED]
    return dict.fromkeys(names, zero), dict.fromkeys(counts, zero)

  def add(self, sums: Sums, more: Sums) -> Sums:
    """Metrics of two parts of a batch -> of both."""
    return {k: (jnp.maximum if k.endswith('_max') else jnp.add)(sums[k], more[k]) for k in sums}


def kept(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """(trained, trained and sampled), bool [B,T]."""
  times_T = jnp.arange(batch.tokens.shape[1])
  inside_BT = (times_T > 0) & (times_T < batch.lengths[:, None]) & (batch.weights > 0)[:, None]
  kept_BT = batch.loss_mask & inside_BT
  sampled_BT = kept_BT if batch.sampled_mask is None else kept_BT & batch.sampled_mask
  return kept_BT, sampled_BT


def _terms(algo: config_lib.Algo) -> dict[str, tuple[float, Term]]:
  """Metric -> (weight, function) of all that is added to the policy loss; see `terms`."""
  found = {'entropy': (-algo.entropy_coef, lambda o: (o.entropies_BT, o.kept_BT))}
  estimate = plugins.function(kl, algo.kl)
  if algo.kl_coef and algo.kl_place == 'loss':
    penalty = lambda o: (estimate(o.logprobs_BT, o.reference_logprobs_BT), o.kept_BT)
    found['kl_loss'] = (algo.kl_coef, penalty)
  for name, weight in plugins.weights(algo.terms).items():
    found[f'term/{name}'] = (weight, plugins.function(terms, name))
  return found


def _outputs(batch: Batch, logprobs_BT: jax.Array, entropies_BT: jax.Array) -> Outputs:
  kept_BT, sampled_BT = kept(batch)
  new_BT = jnp.where(kept_BT, logprobs_BT, 0.0)
  reference_BT = batch.reference_logprobs
  return Outputs(
    logprobs_BT=new_BT,
    entropies_BT=jnp.where(kept_BT, entropies_BT, 0.0),
    old_logprobs_BT=_old_logprobs(batch, kept_BT, sampled_BT, jax.lax.stop_gradient(new_BT)),
    advantages_BT=jnp.where(kept_BT, batch.advantages, 0.0),
    reference_logprobs_BT=None if reference_BT is None else jnp.where(kept_BT, reference_BT, 0.0),
    kept_BT=kept_BT,
  )


def _old_logprobs(
  batch: Batch, kept_BT: jax.Array, sampled_BT: jax.Array, new_BT: jax.Array
) -> jax.Array:
  """The ratio's denominator; `new_BT`, which makes the ratio 1, where there is none."""
  if batch.old_logprobs is not None:
    return jnp.where(kept_BT, batch.old_logprobs, new_BT)
  return jnp.where(sampled_BT, batch.sampler_logprobs, new_BT)


def _importance(batch: Batch, sampled_BT: jax.Array, old_BT: jax.Array, cap: float) -> jax.Array:
  """min(p_learner / p_sampler, cap) before the first update, 1 where nothing was sampled.

  Truncated importance sampling for a sampler whose probabilities differ from the learner's
  (fengyao.notion.site/off-policy-rl); the ratio's own denominator is then the learner's.
  """
  differences_BT = jnp.where(sampled_BT, old_BT - batch.sampler_logprobs, 0.0)
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(differences_BT), cap))


def _mean(values_BT: jax.Array, weights_BT: jax.Array, denominator: jax.Array) -> jax.Array:
  total = jnp.sum(jnp.where(weights_BT > 0, values_BT * weights_BT, 0.0))
  # Nothing kept anywhere: zero over zero is taken as zero.
  return total / jnp.where(denominator > 0, denominator, 1.0)
