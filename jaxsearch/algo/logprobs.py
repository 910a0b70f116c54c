"""Log-probabilities and entropies of given tokens; [B,T,V] never exists.

Left out: chunking over the vocabulary with a streaming log-sum-exp. A chunk of time steps bounds
the logits as well, and keeps one plain matrix product per chunk.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def token_logprobs(
  x_BTD: jax.Array,
  w_VD: jax.Array,
  tokens_BT: jax.Array,
  *,
  temperature: float,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """log p(token t | tokens < t) and the entropy of that distribution, in nats.

    p = softmax(x w^T / temperature), float32 whatever the compute dtype.

  Time is cut into pieces of about `chunk / B` steps of every row, so that a batch split over
  devices stays split. The backward pass makes each piece's logits again.

  Args:
    x_BTD: final hidden states; step t - 1 predicts token t.
    w_VD: output head.
    tokens_BT: int32; an id outside [0, V) gives a log-probability of no meaning, but no NaN.
    temperature: as in sampling.
    chunk: tokens (of all rows together) whose logits exist at a time; at least one per row.

  Returns:
    (logprobs_BT, entropies_BT), float32, 0 at t = 0.
  """
  B, T, D = x_BTD.shape
  if tokens_BT.shape != (B, T) or w_VD.shape[1:] != (D,):
    raise ValueError(f'shapes disagree: x {x_BTD.shape}, w {w_VD.shape}, tokens {tokens_BT.shape}')
  piece = max(1, min(chunk // B, T - 1))
  pieces = -(-(T - 1) // piece)
  pad = pieces * piece - (T - 1)
  x_BtD = jnp.pad(x_BTD[:, :-1], ((0, 0), (0, pad), (0, 0)))
  targets_Bt = jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, pad)))
  x_NBtD = jnp.moveaxis(x_BtD.reshape(B, pieces, piece, D), 1, 0)
  targets_NBt = jnp.moveaxis(targets_Bt.reshape(B, pieces, piece), 1, 0)

  # The product runs in the compute dtype of the model, as it does in the sampler.
  w_VD = w_VD.astype(x_BTD.dtype)
  score = functools.partial(_score, temperature=temperature)
  score = jax.checkpoint(score, prevent_cse=False)
  _, (logprobs_NBt, entropies_NBt) = jax.lax.scan(
    lambda _, piece_: (None, score(piece_[0], w_VD, piece_[1])), None, (x_NBtD, targets_NBt)
  )

  def in_rows(values_NBt: jax.Array) -> jax.Array:
    values_Bt = jnp.moveaxis(values_NBt, 0, 1).reshape(B, pieces * piece)
    return jnp.pad(values_Bt[:, : T - 1], ((0, 0), (1, 0)))

  return in_rows(logprobs_NBt), in_rows(entropies_NBt)


def _score(
  x_BtD: jax.Array, w_VD: jax.Array, targets_Bt: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
  logits = jnp.einsum('btd,vd->btv', x_BtD, w_VD, preferred_element_type=jnp.float32)
  logits = logits / temperature
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  logits = logits - top
  weights = jnp.exp(logits)
  total = jnp.sum(weights, axis=-1)
  # A compare-and-sum, not a gather: its gradient is no scatter and it works on a split vocabulary.
  is_target = jnp.arange(w_VD.shape[0]) == targets_Bt[..., None]
  chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  entropies = jnp.log(total) - jnp.sum(weights * logits, axis=-1) / total
  return chosen - jnp.log(total), entropies
