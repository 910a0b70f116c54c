"""A start from which copying is learnt soon: heads that copy, and heads that look back.

Reading a fact off a page takes a match of two heads in sequence, and neither is worth anything
without the other: from a plain random start they are found late. Pretrained models have both, so
a model that starts from nothing is given their outline (as in arXiv 2305.09828), which training is
free to change: measured in README.md.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.models import decoder

# Heads that look one, two, … tokens back: three tell the places of "the … of the … of" apart.
_LOOKS = 3
_COPIED = 0.2  # Size of what a head copies, in units of its normalised input.
_LOGIT = 20.0  # Of a head that looks back, at the place where it looks.
_CONTENT = 0.1  # What is left of its random products.
_SHARPEST = 0.1  # Radians per token: slower rotations do not tell neighbours apart.


def outline(params: decoder.Params, size: decoder.Size, key: jax.Array) -> decoder.Params:
  """`params` as `decoder.init` makes them -> the same with outlined attention; `key` is consumed.

  Every head writes what it attends to as it is, through a projection of its own. The first
  heads of the first layer attend one, two and three tokens back, by biases of query and key alone.
  The gated MLPs write nothing yet, which would drown what the heads write.

  Raises:
    ValueError: if the model has no such biases, shares key heads or normalises queries and keys.
  """
  if not size.attention_bias or size.qk_norm or size.kv_heads != size.heads or size.heads < 2:
    raise ValueError(
      'the outline of copying heads needs attention_bias, no qk_norm, and at least two heads, '
      f'each with its own key head; the model is {size}'
    )
  L, D, N, H = size.layers, size.embed, size.heads, size.head_size
  attention = params['layers']['attention']
  # One basis per layer, so that heads write side by side and not over each other.
  basis_LDX = jax.vmap(lambda k: jax.random.orthogonal(k, max(D, N * H))[:D, : N * H])(
    jax.random.split(key, L)
  )
  value_LDNH = basis_LDX.reshape(L, D, N, H)
  out_LNHD = _COPIED * jnp.moveaxis(value_LDNH, 1, -1)
  query, key_, value = attention['query'], attention['key'], attention['value']
  looks, angles = min(_LOOKS, N), size.rope_base ** (-jnp.arange(0, H, 2) / H)
  is_sharp = angles > _SHARPEST
  amplitude_h = is_sharp * jnp.sqrt(_LOGIT * H**0.5 / jnp.sum(is_sharp))
  # The rotation of a key that lies `back` tokens behind brings it to the query's own phase.
  phase_Xh = jnp.arange(1, looks + 1)[:, None] * angles
  query_XH = jnp.tile(jnp.concatenate([amplitude_h, jnp.zeros_like(amplitude_h)]), (looks, 1))
  key_XH = jnp.concatenate([amplitude_h * jnp.cos(phase_Xh), amplitude_h * jnp.sin(phase_Xh)], -1)
  attention = {
    **attention,
    'query': {
      'kernel': query['kernel'].at[0, :, :looks].multiply(_CONTENT),
      'bias': query['bias'].at[0, :looks].set(query_XH),
    },
    'key': {
      'kernel': key_['kernel'].at[0, :, :looks].multiply(_CONTENT),
      'bias': key_['bias'].at[0, :looks].set(key_XH),
    },
    'value': {**value, 'kernel': value_LDNH},
    'out': {'kernel': out_LNHD},
  }
  mlp = params['layers']['mlp']
  mlp = {**mlp, 'down': jax.tree.map(jnp.zeros_like, mlp['down'])}
  return {**params, 'layers': {**params['layers'], 'attention': attention, 'mlp': mlp}}
