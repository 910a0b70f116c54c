"""cuDNN's fused attention, for GPUs, as `jax.nn.dot_product_attention` offers it.

It takes 16-bit floats and heads whose size is a multiple of 8 up to 128 (256 from Hopper on).
Elsewhere, and in float32, the same call is XLA's own implementation: slower, the same result.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch.models.attentions import _split
from jaxsearch.models.decoder import Attend

# The kernel has no segments but by a mask of [T,T].
SEGMENTS = False


def implementation(dtype: jnp.dtype) -> str:
  """What `jax.nn.dot_product_attention` is asked for: it does not choose cuDNN by itself."""
  can = jax.default_backend() == 'gpu' and dtype in (jnp.bfloat16, jnp.float16)
  return 'cudnn' if can else 'xla'


def make(mesh: Mesh) -> Attend:
  """Causal attention: queries and keys begin together, where its causal mask begins."""
  return _split.over(mesh, _causal)


def _causal(q_BTQH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
  chosen = implementation(q_BTQH.dtype)
  return jax.nn.dot_product_attention(q_BTQH, k_BTKH, v_BTKH, is_causal=True, implementation=chosen)
