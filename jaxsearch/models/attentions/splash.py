"""Splash attention, for TPUs: the kernel in blocks that ships with JAX, forward and backward.

Blocks above the diagonal are neither read nor computed, and no [T,T] array exists. Query heads that
share a key head read it where it is: keys are not repeated. Runs on TPUs only; tests interpret it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh

from jaxsearch.models.attentions import _split
from jaxsearch.models.decoder import Attend

SEGMENTS = True
# What the kernel takes, the largest first. Large blocks hide the reading of the next one.
_BLOCKS = (512, 256, 128)


def make(mesh: Mesh) -> Attend:
  """Causal attention; T is padded to whole blocks, behind every query that is returned."""
  return _split.over(mesh, _causal)


def _causal(
  q_BTQH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  segments_BT: jax.Array | None = None,
) -> jax.Array:
  T, Q, H = q_BTQH.shape[1:]
  padded = -(-T // _BLOCKS[-1]) * _BLOCKS[-1]
  block = next(block for block in _BLOCKS if padded % block == 0)
  mask = masks.MultiHeadMask([masks.CausalMask((padded, padded))] * Q)
  names = ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq')
  sizes = kernel.BlockSizes(**dict.fromkeys(names, block))
  attend = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)

  def rows(x_BTNH: jax.Array) -> jax.Array:
    return jnp.pad(x_BTNH.swapaxes(1, 2), ((0, 0), (0, 0), (0, padded - T), (0, 0)))

  segments = None
  if segments_BT is not None:
    padded_BT = jnp.pad(segments_BT, ((0, 0), (0, padded - T)), constant_values=-1)
    segments = kernel.SegmentIds(padded_BT, padded_BT)
  # The kernel does not scale its queries.
  o_BQTH = jax.vmap(attend)(rows(q_BTQH * H**-0.5), rows(k_BTKH), rows(v_BTKH), segments)
  return o_BQTH[:, :, :T].swapaxes(1, 2)
