"""Policy weights as the kernels of a CPU read them: matrices in panels of a few columns.

A matrix W [D,N] becomes [P,D,C]: column n is column n % C of panel n // C, so that a product reads
memory from one end to the other. Everything that the policy is multiplied by is packed, output head
included; the embedding also stays as it is, to be looked up in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsearch import kernels
from jaxsearch.models import decoder


def project(
  x: jax.Array,
  features: Mapping[str, tuple[int, ...]],
  *,
  summed: int = 1,
  use_bias: bool = False,
  dtype: Any = None,
) -> tuple[jax.Array, ...]:
  """`decoder.project` with packed kernels, in one call, in float32."""
  x_MD = x.reshape(math.prod(x.shape[:-summed]), -1)
  columns = [math.prod(shape) for shape in features.values()]
  held = [_Held(x_MD.shape[1], shape, use_bias, name=name)() for name, shape in features.items()]
  made = kernels.products(x_MD, [kernel for kernel, _ in held], columns)
  shaped = (y.reshape(*x.shape[:-summed], *shape) for y, shape in zip(made, features.values()))
  return tuple(y + bias if use_bias else y for y, (_, bias) in zip(shaped, held))


class _Held(nn.Module):
  """The parameters of one projection of D summed components to `features`."""

  D: int
  features: Sequence[int]
  use_bias: bool

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array | None]:
    count = -(-math.prod(self.features) // kernels.PANEL)
    zeros = nn.initializers.zeros
    kernel = self.param('kernel', zeros, (count, self.D, kernels.PANEL))
    return kernel, self.param('bias', zeros, tuple(self.features)) if self.use_bias else None


def pack(params: decoder.Params, size: decoder.Size) -> decoder.Params:
  """Unstacked float32 parameters (`decoder.unstack`), packed."""
  layers = tuple(jax.tree_util.tree_map_with_path(_pack_leaf, layer) for layer in params['layers'])
  return {**params, 'layers': layers, 'head': panels(decoder.unembedding(params, size).T)}


def logits(
  params: decoder.Params, size: decoder.Size, x_ND: jax.Array, *, dtype: Any = None
) -> jax.Array:
  """`decoder.logits` with packed parameters, in float32."""
  del dtype
  return kernels.products(x_ND, [params['head']], [size.vocab])[0]


def panels(matrix_DN: jax.Array) -> jax.Array:
  """[P,D,C] of one matrix."""
  D, N = matrix_DN.shape
  padded = jnp.pad(matrix_DN, ((0, 0), (0, -N % kernels.PANEL)))
  return padded.reshape(D, -1, kernels.PANEL).swapaxes(0, 1)


def _pack_leaf(path: Any, leaf: jax.Array) -> jax.Array:
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  if not name.endswith('kernel'):
    return leaf
  summed = 2 if name == 'attention/out/kernel' else 1
  return panels(leaf.reshape(math.prod(leaf.shape[:summed]), -1))
