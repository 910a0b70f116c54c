"""Drawing one token per row from one uniform number per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Vocabulary entries per block of the two-level sum: about the square root of a real vocabulary.
_BLOCK = 256


def uniform(key_S2: jax.Array, position_S: jax.Array) -> jax.Array:
  """One float32 in [0, 1) per row, a function of the row's own key and the position only."""

  def draw(key_2: jax.Array, position: jax.Array) -> jax.Array:
    key = jax.random.wrap_key_data(key_2, impl='threefry2x32')
    return jax.random.uniform(jax.random.fold_in(key, position))

  return jax.vmap(draw)(key_S2, position_S)


def sample(
  logits_SV: jax.Array, uniform_S: jax.Array, temperature_S: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Inverts the cumulative distribution of softmax(logits / temperature).

  The number is first looked up among the sums of blocks, then inside one block, so that no
  noise of vocabulary size is drawn; log-probability and choice come from the same exponentials.
  Temperature 0 takes the largest logit and reports its log-probability at temperature 1.

  Returns:
    tokens int32 [S], log-probabilities float32 [S].
  """
  greedy_S = temperature_S <= 0
  scaled_SV = logits_SV.astype(jnp.float32) / jnp.where(greedy_S, 1.0, temperature_S)[:, None]
  scaled_SV = scaled_SV - scaled_SV.max(axis=-1, keepdims=True)
  weights_SNW = _blocks(jnp.exp(scaled_SV))
  total_S = weights_SNW.sum(axis=-1).sum(axis=-1)
  drawn_S = _invert_blocks(weights_SNW, uniform_S * total_S)
  token_S = jnp.where(greedy_S, jnp.argmax(scaled_SV, axis=-1), drawn_S)
  chosen_S = jnp.take_along_axis(scaled_SV, token_S[:, None], axis=-1)[:, 0]
  return token_S.astype(jnp.int32), chosen_S - jnp.log(total_S)


def sample_over(
  logits_Sv: jax.Array, uniform_S: jax.Array, temperature_S: jax.Array, axis: str
) -> tuple[jax.Array, jax.Array]:
  """`sample` where every device along the mesh axis has the same number of entries of each row.

  One level more: which device's sum holds the number, then the same as `sample` on that one. What
  devices tell each other is a few numbers a row. Tokens and log-probabilities are those of `sample`
  but for the rounding of the sum over all entries.

  Args:
    logits_Sv: this device's entries, in the order of the devices.
    uniform_S, temperature_S: the same on all of them.
    axis: name of a manual mesh axis.

  Returns:
    as `sample`, the same on all of them.
  """
  greedy_S = temperature_S <= 0
  scaled_Sv = logits_Sv.astype(jnp.float32) / jnp.where(greedy_S, 1.0, temperature_S)[:, None]
  tops_SN = _from_all(scaled_Sv.max(axis=-1), axis)
  scaled_Sv = scaled_Sv - tops_SN.max(axis=-1, keepdims=True)
  weights_SNW = _blocks(jnp.exp(scaled_Sv))
  sums_SN = _from_all(weights_SNW.sum(axis=-1).sum(axis=-1), axis)
  total_S = sums_SN.sum(axis=-1)
  device_S, rest_S = _invert(sums_SN, uniform_S * total_S)
  device_S = jnp.where(greedy_S, jnp.argmax(tops_SN, axis=-1), device_S)
  drawn_S = _invert_blocks(weights_SNW, rest_S)
  inner_S = jnp.where(greedy_S, jnp.argmax(scaled_Sv, axis=-1), drawn_S)
  chosen_S = jnp.take_along_axis(scaled_Sv, inner_S[:, None], axis=-1)[:, 0]
  here = jax.lax.axis_index(axis)
  mine_S = device_S == here
  found_S = jnp.where(mine_S, here * logits_Sv.shape[1] + inner_S, 0)
  token_S, chosen_S = jax.lax.psum((found_S, jnp.where(mine_S, chosen_S, 0.0)), axis)
  return token_S.astype(jnp.int32), chosen_S - jnp.log(total_S)


def _from_all(values_S: jax.Array, axis: str) -> jax.Array:
  return jax.lax.all_gather(values_S, axis, axis=1)


def _blocks(weights_SV: jax.Array) -> jax.Array:
  S, V = weights_SV.shape
  return jnp.pad(weights_SV, ((0, 0), (0, -V % _BLOCK))).reshape(S, -1, _BLOCK)


def _invert_blocks(weights_SNW: jax.Array, target_S: jax.Array) -> jax.Array:
  """Index of the entry at which the cumulative weight exceeds the target."""
  block_S, rest_S = _invert(weights_SNW.sum(axis=-1), target_S)
  weights_SW = jnp.take_along_axis(weights_SNW, block_S[:, None, None], axis=1)[:, 0]
  inner_S, _ = _invert(weights_SW, rest_S)
  return block_S * _BLOCK + inner_S


def _invert(weights_SN: jax.Array, target_S: jax.Array) -> tuple[jax.Array, jax.Array]:
  """First index of weight above 0 whose cumulative weight exceeds the target, and the rest of it.

  Long sums are added up as a tree, so that rounding lets cumulative weights change where a weight
  is 0, and even fall. The target is kept below the largest one at a weight above 0: there always is
  such an index, and an entry of weight 0 is never chosen.
  """
  cumulative_SN = jnp.cumsum(weights_SN, axis=-1)
  possible_SN = weights_SN > 0
  top_S = jnp.where(possible_SN, cumulative_SN, 0.0).max(axis=-1)
  target_S = jnp.minimum(target_S, jnp.nextafter(top_S, 0.0))
  index_S = jnp.argmax(possible_SN & (cumulative_SN > target_S[:, None]), axis=-1)
  before_SN = cumulative_SN - weights_SN
  before_S = jnp.take_along_axis(before_SN, index_S[:, None], axis=-1)[:, 0]
  return index_S, jnp.maximum(target_S - before_S, 0.0)
