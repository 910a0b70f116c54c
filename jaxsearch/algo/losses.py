"""Policy losses and KL estimators, element by element; the caller masks, weighs and sums.

A policy loss maps (logprobs, old_logprobs, advantages, *, clip_low, clip_high) to per-token losses
and to whether the clip took that token's gradient away. A KL estimator maps (logprobs,
reference_logprobs) to per-token values. All arrays have one shape; gradients flow into `logprobs`.

Left out of PPO (arXiv 1707.06347): the value loss (GRPO has no critic) and the dual clip.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_ratio(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), with two bounds (arXiv 2503.14476, eq. 10).

    r = exp(logprob - old_logprob);  loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

  By hand, bounds 0.2: r = 1.5, A = 2 gives -2.4, clipped; r = 1.5, A = -1 gives 1.5, not clipped.
  """
  ratio = jnp.exp(logprobs - old_logprobs)
  free = -advantages * ratio
  bound = -advantages * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return jnp.maximum(free, bound), bound > free


def likelihood(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """Weighted negative log-likelihood, loss = -A logprob: supervised training, where A = 1."""
  del old_logprobs, clip_low, clip_high
  return -advantages * logprobs, jnp.zeros(logprobs.shape, bool)


def k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """d = logprob - reference: unbiased, may be negative, and of zero expected gradient on-policy.

  http://joschu.net/blog/kl-approx.html; here for measuring rather than for training.
  """
  return logprobs - reference_logprobs


def k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """d^2 / 2 with d = logprob - reference: biased value, unbiased on-policy gradient of the KL."""
  return 0.5 * jnp.square(logprobs - reference_logprobs)


def k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """exp(-d) + d - 1 with d = logprob - reference: GRPO's KL (arXiv 2402.03300, eq. 4).

  Never negative; clamped to at most 10 like ReSearch's trainer. By hand: d = ln 2 gives
  0.5 + 0.6931 - 1 = 0.1931.
  """
  # Clamped before the exponential too: exp overflows at 89 and 0 * inf would poison the gradient.
  d = jnp.clip(logprobs - reference_logprobs, -20.0, 20.0)
  return jnp.minimum(jnp.exp(-d) + d - 1.0, 10.0)
