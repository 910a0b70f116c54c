"""Policy losses per token; the caller masks, weighs and sums.

A policy loss maps (logprobs, old_logprobs, advantages, kept, *, clip_low, clip_high), arrays [B,T],
to per-token losses and to whether the clip took that token's gradient away. Gradients flow into
`logprobs`. `kept` is true where a token is trained; a loss that looks at whole rows needs it, the
others leave it alone, for the caller drops what is not kept.

Left out of PPO (arXiv 1707.06347): the value loss (GRPO has no critic) and the dual clip.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_ratio(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  kept: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), with two bounds (arXiv 2503.14476, eq. 10).

    r = exp(logprob - old_logprob);  loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

  By hand, bounds 0.2: r = 1.5, A = 2 gives -2.4, clipped; r = 1.5, A = -1 gives 1.5, not clipped.
  """
  del kept
  return _clip(jnp.exp(logprobs - old_logprobs), advantages, clip_low, clip_high)


def sequence_ratio(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  kept: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """GSPO (arXiv 2507.18071, eq. 13): the clipped surrogate of a ratio that a whole row shares.

    s = exp(mean over the row's kept tokens of logprob - old_logprob)

  Each token has the value s and the gradient s grad(logprob), so that advantages may differ between
  tokens; with `loss_norm='sequence'` and equal ones this is GSPO itself. Bounds are about a
  thousandth of PPO's. By hand: log-ratios ln 4 and 0 give s = 2 for both tokens.
  """
  differences = jnp.where(kept, logprobs - old_logprobs, 0.0)
  tokens = jnp.maximum(jnp.sum(kept, axis=-1, keepdims=True), 1)
  shared = jax.lax.stop_gradient(jnp.exp(jnp.sum(differences, axis=-1, keepdims=True) / tokens))
  ratio = shared * jnp.exp(logprobs - jax.lax.stop_gradient(logprobs))
  return _clip(ratio, advantages, clip_low, clip_high)


def clipped_weight(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  kept: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """CISPO (arXiv 2506.13585, eq. 4): -clip(r) A logprob, the weight held fixed.

  No token loses its gradient, so none counts as clipped. By hand, bounds 0.2: r = 1.5, A = 2,
  logprob = -1 gives 2.4 and the gradient -2.4.
  """
  del kept
  ratio = jax.lax.stop_gradient(jnp.exp(logprobs - old_logprobs))
  weight = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return -weight * advantages * logprobs, jnp.zeros(logprobs.shape, bool)


def likelihood(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  kept: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """Weighted negative log-likelihood, loss = -A logprob: supervised training, where A = 1."""
  del old_logprobs, kept, clip_low, clip_high
  return -advantages * logprobs, jnp.zeros(logprobs.shape, bool)


def _clip(
  ratio: jax.Array, advantages: jax.Array, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
  free = -advantages * ratio
  bound = -advantages * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return jnp.maximum(free, bound), bound > free
