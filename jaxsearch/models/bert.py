"""The encoders BERT and (XLM-)RoBERTa: one function, differences are numbers of `Size`.

  first_position    RoBERTa: its table of positions begins behind the id of the padding
  types             RoBERTa: one token type, which every token has

Norms stand behind the sum with the residual (post-LN), GELU is the exact one. Products are of
`dtype` with float32 sums; everything between them is float32, which a CPU computes faster than
bfloat16. Linen stays inside this folder: parameters are the pytree
`{'embeddings': {...}, 'layers': (L trees), 'head': {...} of a cross-encoder}`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsearch.models import attention

Params = dict[str, Any]
# Fewer of them XLA on CPUs computes in another way: a short text alone would have other last bits
# than among others.
_LEAST_EXPONENTIALS = 4096


@dataclasses.dataclass(frozen=True)
class Size:
  """Shape of an encoder; hashable, so it is a static argument of jit."""

  vocab: int
  layers: int
  embed: int
  heads: int
  hidden: int
  positions: int  # Rows of the table; a text has at most `positions - first_position` tokens.
  types: int
  norm_eps: float
  first_position: int = 0


class Embeddings(nn.Module):
  """Word, position and token type, added and normed."""

  size: Size

  @nn.compact
  def __call__(self, tokens_BT: jax.Array, types_BT: jax.Array) -> jax.Array:
    size, table = self.size, nn.initializers.normal(0.02)
    words_VD = self.param('words', table, (size.vocab, size.embed))
    positions_SD = self.param('positions', table, (size.positions, size.embed))
    types_ND = self.param('types', table, (size.types, size.embed))
    first, T = size.first_position, tokens_BT.shape[1]
    types_BT = jnp.minimum(types_BT, size.types - 1)
    x_BTD = words_VD[tokens_BT] + positions_SD[first : first + T] + types_ND[types_BT]
    return Norm(size.norm_eps, name='norm')(x_BTD)


class Norm(nn.Module):
  """(x - mean) / deviation * scale + bias, in float32 (arXiv 1607.06450)."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x - x.mean(axis=-1, keepdims=True)
    return (
      x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps) * scale + bias
    )


class Dense(nn.Module):
  """x Wᵀ + b: a product of the type of W, its sum float32.

  W is [out,in], as Hugging Face keeps it: XLA on CPUs then sums a row alike whatever the number of
  rows, and multiplies few rows by large matrices up to twice as fast.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', nn.initializers.normal(0.02), (self.features, x.shape[-1]))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    summed = (((x.ndim - 1,), (1,)), ((), ()))
    x = x.astype(kernel.dtype)
    return jax.lax.dot_general(x, kernel, summed, preferred_element_type=jnp.float32) + bias


class Layer(nn.Module):
  """x = norm(x + attention(x)), then norm(x + mlp(x))."""

  size: Size

  @nn.compact
  def __call__(self, x_BTD: jax.Array, seen_BT: jax.Array) -> jax.Array:
    size = self.size
    B, T, D = x_BTD.shape
    qkv_BT3QH = Dense(3 * D, name='qkv')(x_BTD).reshape(B, T, 3, size.heads, D // size.heads)
    o_BTD = _attend(qkv_BT3QH, seen_BT).reshape(B, T, D)
    x_BTD = Norm(size.norm_eps, name='attention_norm')(x_BTD + Dense(D, name='out')(o_BTD))
    h_BTF = _gelu(Dense(size.hidden, name='up')(x_BTD))
    return Norm(size.norm_eps, name='mlp_norm')(x_BTD + Dense(D, name='down')(h_BTF))


class Head(nn.Module):
  """One score of a text, from the state of its first token."""

  @nn.compact
  def __call__(self, x_BD: jax.Array) -> jax.Array:
    pooled_BD = jnp.tanh(Dense(x_BD.shape[1], name='pooler')(x_BD))
    return Dense(1, name='score')(pooled_BD)[:, 0]


def init(key: jax.Array, size: Size, *, scores: bool = False) -> Params:
  """Random float32 parameters; with those of `score`, if asked for. `key` is consumed."""
  embed_key, layers_key, head_key = jax.random.split(key, 3)
  tokens_BT, x_BTD = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, size.embed))
  layer = Layer(size)
  params = {
    'embeddings': Embeddings(size).init(embed_key, tokens_BT, tokens_BT)['params'],
    'layers': tuple(
      layer.init(one, x_BTD, tokens_BT >= 0)['params']
      for one in jax.random.split(layers_key, size.layers)
    ),
  }
  if scores:
    params['head'] = Head().init(head_key, x_BTD[:, 0])['params']
  return params


def cast(params: Params, dtype: Any) -> Params:
  """Matrices of products in `dtype`; tables, biases and norms stay float32."""
  return jax.tree_util.tree_map_with_path(
    lambda path, p: p.astype(dtype) if path[-1].key == 'kernel' else p, params
  )


def hidden(
  params: Params,
  size: Size,
  tokens_BT: jax.Array,
  lengths_B: jax.Array,
  types_BT: jax.Array | None = None,
) -> jax.Array:
  """Hidden states of the last layer, float32 [B,T,D]; anything behind a row's end.

  Args:
    params: as `init` makes them, or `cast`.
    size: of the encoder.
    tokens_BT: int32, right-padded with any id; T up to `size.positions - size.first_position`.
    lengths_B: int32, tokens of each row.
    types_BT: int32, token types, of which the last is taken for any beyond it; None: 0.
  """
  seen_BT = jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]
  types_BT = jnp.zeros_like(tokens_BT) if types_BT is None else types_BT
  x_BTD = Embeddings(size).apply({'params': params['embeddings']}, tokens_BT, types_BT)
  for layer in params['layers']:
    x_BTD = Layer(size).apply({'params': layer}, x_BTD, seen_BT)
  return x_BTD


def score(params: Params, x_BTD: jax.Array) -> jax.Array:
  """float32 [B], the score that a cross-encoder gives each row of `hidden`."""
  return Head().apply({'params': params['head']}, x_BTD[:, 0])


def _attend(qkv_BT3QH: jax.Array, seen_BT: jax.Array) -> jax.Array:
  """Softmax attention to all tokens that are seen, float32 [B,T,Q,H].

  Divided by the sum of the weights last: on a CPU a quarter of the time at 128 tokens, as XLA
  otherwise makes the weights anew for every component of the values.
  """
  q_BTQH, k_BTQH, v_BTQH = (qkv_BT3QH[:, :, i] for i in range(3))
  q_BTQH = q_BTQH * qkv_BT3QH.shape[-1] ** -0.5
  logits_BQTS = jnp.einsum('btqh,bsqh->bqts', q_BTQH, k_BTQH)
  logits_BQTS = jnp.where(seen_BT[:, None, None], logits_BQTS, attention.MASKED)
  B, copies = len(logits_BQTS), -(-_LEAST_EXPONENTIALS // logits_BQTS.size)
  logits_BQTS = jnp.concatenate([logits_BQTS] * copies)
  weights_BQTS = jnp.exp(logits_BQTS - logits_BQTS.max(axis=-1, keepdims=True))
  sums_BQT1 = weights_BQTS.sum(axis=-1, keepdims=True)[:B]
  o_BQTH = jnp.einsum('bqts,bsqh->bqth', weights_BQTS[:B], v_BTQH)
  return (o_BQTH / sums_BQT1).swapaxes(1, 2)


def _gelu(x: jax.Array) -> jax.Array:
  """x times the normal distribution up to x (arXiv 1606.08415)."""
  return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))
