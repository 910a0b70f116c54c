"""Policy weights as the kernels of a CPU read them: matrices in panels of a few columns.

A matrix W [D,N] becomes [P,D,C]: column n is column n % C of panel n // C, so that a product reads
memory from one end to the other. Everything that the policy is multiplied by is packed, output head
included; the embedding also stays as it is, to be looked up in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsearch import kernels
from jaxsearch.models import decoder


class Dense(nn.Module):
  """`nn.DenseGeneral` with a packed kernel, in float32."""

  features: int | Sequence[int]
  axis: int | Sequence[int] = -1
  use_bias: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
    summed = 1 if isinstance(self.axis, int) else len(self.axis)
    x_MD = x.reshape(math.prod(x.shape[:-summed]), -1)
    columns = math.prod(features)
    panels = -(-columns // kernels.PANEL), x_MD.shape[1], kernels.PANEL
    kernel = self.param('kernel', nn.initializers.zeros, panels)
    y = kernels.product(x_MD, kernel, columns).reshape(*x.shape[:-summed], *features)
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, features)
    return y


def pack(params: decoder.Params, size: decoder.Size) -> decoder.Params:
  """Unstacked float32 parameters (`decoder.unstack`), packed."""
  layers = tuple(jax.tree_util.tree_map_with_path(_pack_leaf, layer) for layer in params['layers'])
  return {**params, 'layers': layers, 'head': _panels(decoder.unembedding(params, size).T)}


def logits(params: decoder.Params, size: decoder.Size, x_ND: jax.Array) -> jax.Array:
  """[N,V] of hidden states; `params` are packed."""
  return kernels.product(x_ND, params['head'], size.vocab)


def _pack_leaf(path: Any, leaf: jax.Array) -> jax.Array:
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  if not name.endswith('kernel'):
    return leaf
  summed = 2 if name == 'attention/out/kernel' else 1
  return _panels(leaf.reshape(math.prod(leaf.shape[:summed]), -1))


def _panels(matrix_DN: jax.Array) -> jax.Array:
  D, N = matrix_DN.shape
  padded = jnp.pad(matrix_DN, ((0, 0), (0, -N % kernels.PANEL)))
  return padded.reshape(D, -1, kernels.PANEL).swapaxes(0, 1)
