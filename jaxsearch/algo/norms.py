"""What the summed token losses of an update are divided by.

A norm maps (kept_BT bool, weights_B, policy_tokens) to a coefficient per token and to this batch's
share of the denominator. Denominators are added up over all micro-batches and hosts before the
first gradient, so cutting the batch differently changes nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def token(
  kept_BT: jax.Array, weights_B: jax.Array, policy_tokens: int
) -> tuple[jax.Array, jax.Array]:
  """Every token counts the same (DAPO, arXiv 2503.14476, eq. 12): sum / kept tokens."""
  del policy_tokens
  coefficients_BT = kept_BT * weights_B[:, None]
  return coefficients_BT, jnp.sum(coefficients_BT)


def sequence(
  kept_BT: jax.Array, weights_B: jax.Array, policy_tokens: int
) -> tuple[jax.Array, jax.Array]:
  """Every row counts the same (GRPO, arXiv 2402.03300, eq. 3): mean over rows of token means."""
  del policy_tokens
  tokens_B = jnp.sum(kept_BT, axis=1)
  share_B = weights_B / jnp.maximum(tokens_B, 1)
  return kept_BT * share_B[:, None], jnp.sum(weights_B * (tokens_B > 0))


def constant(
  kept_BT: jax.Array, weights_B: jax.Array, policy_tokens: int
) -> tuple[jax.Array, jax.Array]:
  """No row's length enters (Dr. GRPO, arXiv 2503.20783): sum / (rows * largest policy length)."""
  tokens_B = jnp.sum(kept_BT, axis=1)
  return kept_BT * weights_B[:, None], jnp.sum(weights_B * (tokens_B > 0)) * policy_tokens
