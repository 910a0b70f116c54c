"""The decoder of Qwen2, Qwen3 and Llama: one set of modules, differences are options of `Size`.

  qk_norm            Qwen3: RMSNorm on each head's query and key
  attention_bias     Qwen2: biases on query, key and value projections
  tied_embeddings    the small models of every family: the embedding is also the output head
  rope_factor        Llama 3.1 and later: slow rotations are slowed down further

Linen stays inside this folder: everywhere else parameters are the pytree
`{'embed': [V,D], 'layers': {...: [L, ...]}, 'norm': [D], 'head': [V,D] if untied}`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxsearch.models import attention
from jaxsearch.models import remat as remat_lib

Params = dict[str, Any]
# (q_BTQH, k_BTKH, v_BTKH) -> o_BTQH; the caller owns masks and caches.
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Project = Callable[..., tuple[jax.Array, ...]]  # As `project`.

# Parameter path -> logical axes of the stacked training parameters, outermost first.
AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'embed', ('vocab', 'embed')),
  (r'head', ('vocab', 'embed')),
  (r'norm', (None,)),
  (r'layers/attention/query/kernel', ('layers', 'embed', 'heads', None)),
  (r'layers/attention/(key|value)/kernel', ('layers', 'embed', 'kv_heads', None)),
  (r'layers/attention/query/bias', ('layers', 'heads', None)),
  (r'layers/attention/(key|value)/bias', ('layers', 'kv_heads', None)),
  (r'layers/attention/out/kernel', ('layers', 'heads', None, 'embed')),
  (r'layers/attention/(query_norm|key_norm)/scale', ('layers', None)),
  (r'layers/(attention_norm|mlp_norm)/scale', ('layers', None)),
  (r'layers/mlp/(gate|up)/kernel', ('layers', 'embed', 'hidden')),
  (r'layers/mlp/down/kernel', ('layers', 'hidden', 'embed')),
)


@dataclasses.dataclass(frozen=True)
class Size:
  """Shape and options of one policy; hashable, so it is a static argument of jit."""

  vocab: int
  layers: int
  embed: int
  heads: int
  kv_heads: int
  head_size: int
  hidden: int
  rope_base: float = 10000.0
  norm_eps: float = 1e-6
  qk_norm: bool = False
  attention_bias: bool = False
  tied_embeddings: bool = True
  positions: int = 0  # Longest context that it was trained for; 0: not known.
  # Rotations of fewer than `rope_low` turns over `rope_context` tokens are slowed down by
  # `rope_factor`, those of more than `rope_high` are not.
  rope_factor: float = 1.0
  rope_low: float = 1.0
  rope_high: float = 4.0
  rope_context: int = 8192


class RMSNorm(nn.Module):
  """x / rms(x) * scale, computed in float32 (arXiv 1910.07467)."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    return _rms_norm(x, scale, self.eps)


def project(
  x: jax.Array,
  features: Mapping[str, tuple[int, ...]],
  *,
  summed: int = 1,
  use_bias: bool = False,
  dtype: Any,
) -> tuple[jax.Array, ...]:
  """The last `summed` axes of x times one matrix a name, to so many features."""
  axes = tuple(range(-summed, 0))
  options = {'axis': axes, 'use_bias': use_bias, 'dtype': dtype}
  return tuple(nn.DenseGeneral(n, name=name, **options)(x) for name, n in features.items())


class Attention(nn.Module):
  """Projections, rotary positions and the caller's attention over their result."""

  size: Size
  dtype: Any
  project: Project

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> jax.Array:
    size = self.size
    heads, kv_heads = (size.heads, size.head_size), (size.kv_heads, size.head_size)
    q_BTQH, k_BTKH, v_BTKH = self.project(
      x_BTD,
      {'query': heads, 'key': kv_heads, 'value': kv_heads},
      use_bias=size.attention_bias,
      dtype=self.dtype,
    )
    if size.qk_norm:
      q_BTQH = RMSNorm(size.norm_eps, name='query_norm')(q_BTQH)
      k_BTKH = RMSNorm(size.norm_eps, name='key_norm')(k_BTKH)
    q_BTQH = rotate(q_BTQH, positions_BT, frequencies(size))
    k_BTKH = rotate(k_BTKH, positions_BT, frequencies(size))
    q, k, v = (checkpoint_name(x, remat_lib.ATTENTION) for x in (q_BTQH, k_BTKH, v_BTKH))
    o_BTQH = checkpoint_name(attend(q, k, v), remat_lib.ATTENTION)
    return self.project(o_BTQH, {'out': (size.embed,)}, summed=2, dtype=self.dtype)[0]


class GatedMLP(nn.Module):
  """down(silu(gate x) * up x) (arXiv 2002.05202)."""

  size: Size
  dtype: Any
  project: Project

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    hidden, embed = (self.size.hidden,), (self.size.embed,)
    gate_BTF, up_BTF = self.project(x_BTD, {'gate': hidden, 'up': hidden}, dtype=self.dtype)
    return self.project(nn.silu(gate_BTF) * up_BTF, {'down': embed}, dtype=self.dtype)[0]


class Block(nn.Module):
  """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

  size: Size
  dtype: Any
  project: Project = project

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, attend: Attend) -> jax.Array:
    h_BTD = RMSNorm(self.size.norm_eps, name='attention_norm')(x_BTD)
    attention_layer = Attention(self.size, self.dtype, self.project, name='attention')
    x_BTD = x_BTD + attention_layer(h_BTD, positions_BT, attend)
    h_BTD = RMSNorm(self.size.norm_eps, name='mlp_norm')(x_BTD)
    return x_BTD + GatedMLP(self.size, self.dtype, self.project, name='mlp')(h_BTD)


def init(key: jax.Array, size: Size) -> Params:
  """Random float32 parameters; `key` is consumed."""
  embed_key, head_key, layers_key = jax.random.split(key, 3)
  scale = size.embed**-0.5
  block = Block(size, jnp.float32)

  def layer(layer_key: jax.Array) -> Params:
    x_BTD, positions_BT = jnp.zeros((1, 1, size.embed)), jnp.zeros((1, 1), jnp.int32)
    return block.init(layer_key, x_BTD, positions_BT, attention.causal)['params']

  params = {
    'embed': jax.random.normal(embed_key, (size.vocab, size.embed)) * scale,
    'layers': jax.vmap(layer)(jax.random.split(layers_key, size.layers)),
    'norm': jnp.ones((size.embed,)),
  }
  if not size.tied_embeddings:
    params['head'] = jax.random.normal(head_key, (size.vocab, size.embed)) * scale
  return params


def hidden(
  params: Params,
  size: Size,
  tokens_BT: jax.Array,
  *,
  dtype: Any,
  scan: bool,
  remat: remat_lib.Remat = remat_lib.none,
  attend: Attend = attention.causal,
  project: Project = project,
  positions_BT: jax.Array | None = None,
) -> jax.Array:
  """Final hidden states [B,T,D] of right-padded rows.

  Args:
    params: stacked, as `init` makes them.
    size: of the policy.
    tokens_BT: int32.
    dtype: of activations and products.
    scan: one compiled layer, applied L times; otherwise L copies, slower to compile and on CPU
      twice as fast to run.
    remat: which of a layer's activations the backward pass makes again (models/remat).
    attend: causal attention over whole rows (models/attentions).
    project: what multiplies by matrices (models/lora has another).
    positions_BT: of the tokens; None: each row is one context.
  """
  if positions_BT is None:
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)

  def layer(x_BTD: jax.Array, layer_params: Params) -> tuple[jax.Array, None]:
    block = Block(size, dtype, project)
    return block.apply({'params': layer_params}, x_BTD, positions_BT, attend), None

  x_BTD = _embed(params, tokens_BT, dtype)
  unroll = 1 if scan else size.layers
  x_BTD, _ = jax.lax.scan(remat(layer), x_BTD, params['layers'], unroll=unroll)
  return _rms_norm(x_BTD, params['norm'], size.norm_eps)


def cached_hidden(
  params: Params,
  size: Size,
  tokens_BT: jax.Array,
  positions_BT: jax.Array,
  *,
  attend: Callable[[int], Attend],
  dtype: Any,
  project: Project = project,
) -> jax.Array:
  """The same function with unrolled layers (`unstack`) and the caller's attention per layer.

  Args:
    params: of `unstack`, or as `project` has them.
    size: of the policy.
    tokens_BT: int32.
    positions_BT: int32.
    attend: of each layer.
    dtype: of activations and products.
    project: what multiplies by matrices (models/packed has another).
  """
  x_BTD = _embed(params, tokens_BT, dtype)
  block = Block(size, dtype, project)
  for index, layer_params in enumerate(params['layers']):
    x_BTD = block.apply({'params': layer_params}, x_BTD, positions_BT, attend(index))
  return _rms_norm(x_BTD, params['norm'], size.norm_eps)


def unembedding(params: Params, size: Size) -> jax.Array:
  """The output head [V,D]."""
  return params['embed'] if size.tied_embeddings else params['head']


def logits(params: Params, size: Size, x_ND: jax.Array, *, dtype: Any) -> jax.Array:
  """float32 [N,V] of hidden states; the product is of `dtype`."""
  w_VD = unembedding(params, size).astype(dtype)
  return jnp.einsum('nd,vd->nv', x_ND, w_VD, preferred_element_type=jnp.float32)


def cast(params: Params, dtype: Any) -> Params:
  """What a forward pass in `dtype` makes of the weights; scales of norms are used in float32."""
  return jax.tree_util.tree_map_with_path(
    lambda path, p: p if path[-1].key in ('scale', 'norm') else p.astype(dtype), params
  )


def unstack(params: Params, size: Size) -> Params:
  """Layers as a tuple of L trees instead of one tree with a leading L: what decoding reads."""
  layers = tuple(jax.tree.map(lambda p, i=i: p[i], params['layers']) for i in range(size.layers))
  return {**params, 'layers': layers}


def frequencies(size: Size) -> jax.Array:
  """Radians a token of each pair of a head's components, float32 [H/2].

  Slowed down as Llama 3.1 and later do it (arXiv 2407.21783, 3.4.2; constants of their
  configurations): between the two bounds by the share of the way that a rotation lies.
  """
  H = size.head_size
  inverse_h = size.rope_base ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
  if size.rope_factor == 1.0:
    return inverse_h
  turns_h = inverse_h * (size.rope_context / (2 * math.pi))
  kept_h = jnp.clip((turns_h - size.rope_low) / (size.rope_high - size.rope_low), 0.0, 1.0)
  return inverse_h * (kept_h + (1.0 - kept_h) / size.rope_factor)


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, inverse_h: jax.Array) -> jax.Array:
  """Rotary position embedding (arXiv 2104.09864), halves convention of Llama and Qwen.

  Phases are float32 whatever the compute dtype: bfloat16 has no 257.
  """
  phase_BT1h = positions_BT.astype(jnp.float32)[..., None, None] * inverse_h
  sin, cos = jnp.sin(phase_BT1h), jnp.cos(phase_BT1h)
  a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)


def _embed(params: Params, tokens_BT: jax.Array, dtype: Any) -> jax.Array:
  return params['embed'].astype(dtype)[tokens_BT]


def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  x32 = x.astype(jnp.float32)
  x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * scale).astype(x.dtype)
