"""What is done to advantages on the mesh, where all tokens are: KL in the reward, whitening.

Pure functions of one micro-batch; the learner adds their sums up over the whole batch of rollouts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch.algo.objective import Batch, kept

# Floor of the variance: equal advantages become 0, not noise.
_FLOOR = 1e-8


def penalize(batch: Batch, estimate: Callable[..., jax.Array], coefficient: float) -> Batch:
  """Advantages less `coefficient` times the KL of each token and all later ones of its row.

    A_t - coefficient * sum over trained u >= t of kl(sampler_u, reference_u)

  So the KL is a reward of its token (undiscounted), as in R1-Searcher and REINFORCE++ (arXiv
  2501.03262). By hand: KLs 0.1, 0.2, 0.3 and coefficient 1 take 0.6, 0.5, 0.3 off.
  """
  kept_BT, sampled_BT = kept(batch)
  logprobs_BT = jnp.where(sampled_BT, batch.sampler_logprobs, 0.0)
  reference_BT = jnp.where(sampled_BT, batch.reference_logprobs, 0.0)
  kl_BT = jnp.where(sampled_BT, estimate(logprobs_BT, reference_BT), 0.0)
  to_go_BT = jnp.cumsum(kl_BT[:, ::-1], axis=1)[:, ::-1]
  advantages_BT = jnp.where(kept_BT, batch.advantages, 0.0) - coefficient * to_go_BT
  return dataclasses.replace(batch, advantages=advantages_BT)


def total(batch: Batch, mean: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(trained tokens, sum of their advantages, sum of squared distances from `mean`), weighted."""
  kept_BT, _ = kept(batch)
  weights_BT = kept_BT * batch.weights[:, None]
  values_BT = jnp.where(kept_BT, batch.advantages, 0.0)
  distances_BT = jnp.square(jnp.where(kept_BT, values_BT - mean, 0.0))
  return (
    jnp.sum(weights_BT),
    jnp.sum(weights_BT * values_BT),
    jnp.sum(weights_BT * distances_BT),
  )


def standardize(batch: Batch, mean: jax.Array, variance: jax.Array) -> Batch:
  """(A - mean) / sqrt(variance), the variance that of a population and at least 1e-8."""
  kept_BT, _ = kept(batch)
  values_BT = (batch.advantages - mean) * jax.lax.rsqrt(jnp.maximum(variance, _FLOOR))
  return dataclasses.replace(batch, advantages=jnp.where(kept_BT, values_BT, 0.0))
