"""KL estimators, element by element, of the policy and the frozen reference.

Each maps (logprobs, reference_logprobs) of one shape to per-token values; gradients flow into
`logprobs`. In the loss (`algo.kl_place`) the value's own gradient is what counts: take `k2` or
`k3`. In the reward it is the value: take `k1`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


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
