"""Low-rank adapters (arXiv 2106.09685) of every product inside the layers.

A kernel W is left as it is and its products are with W + (alpha / rank) A B, summed in float32 and
rounded to the compute dtype: by the learner in every layer as it goes, by `merge` for the sampler,
so that both have the same weights. (x W + x A B, which costs less, would be another policy: merged
into bfloat16, most of a small A B is lost.) A starts random and B at zero, so that a new adapter
changes nothing. In the pytree they lie beside their kernel, as `lora_a` [L, inputs..., rank] and
`lora_b` [L, rank, outputs...].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsearch.models import decoder

Params = decoder.Params
A, B = 'lora_a', 'lora_b'
# As `decoder.AXES`: what goes in and out is split as the kernel is, the rank is not.
AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'layers/attention/(query|key|value)/lora_a', ('layers', 'embed', None)),
  (r'layers/attention/query/lora_b', ('layers', None, 'heads', None)),
  (r'layers/attention/(key|value)/lora_b', ('layers', None, 'kv_heads', None)),
  (r'layers/attention/out/lora_a', ('layers', 'heads', None, None)),
  (r'layers/attention/out/lora_b', ('layers', None, 'embed')),
  (r'layers/mlp/(gate|up)/lora_a', ('layers', 'embed', None)),
  (r'layers/mlp/(gate|up)/lora_b', ('layers', None, 'hidden')),
  (r'layers/mlp/down/lora_a', ('layers', 'hidden', None)),
  (r'layers/mlp/down/lora_b', ('layers', None, 'embed')),
)


def init(key: jax.Array, params: Params, rank: int) -> Params:
  """New float32 adapters for the layers of `params` (arrays or shapes); `key` is consumed."""
  kernels = {name: leaf.shape for name, leaf in _kernels(params['layers'], ())}
  adapters: Params = {}
  for one, (path, shape) in zip(jax.random.split(key, len(kernels)), kernels.items(), strict=True):
    layers, inputs, outputs = shape[0], *_sides(path, shape)
    at = adapters
    for part in ('layers', *path):
      at = at.setdefault(part, {})
    scale = math.prod(inputs) ** -0.5
    at[A] = scale * jax.random.normal(one, (layers, *inputs, rank))
    at[B] = jnp.zeros((layers, rank, *outputs))
  return adapters


def project(
  x: jax.Array,
  features: Mapping[str, tuple[int, ...]],
  *,
  summed: int = 1,
  use_bias: bool = False,
  dtype: Any,
  scale: float,
) -> tuple[jax.Array, ...]:
  """`decoder.project` with the adapters beside the kernels, if any; `scale` is alpha / rank."""
  del use_bias  # What is there says it.
  return tuple(_Adapted(summed, dtype, scale, name=name)(x) for name in features)


def combine(base: Params, adapters: Params) -> Params:
  """One tree of both; where both have a leaf, the second's."""
  both = {**base, **adapters}
  nested = [name for name in base.keys() & adapters.keys() if isinstance(base[name], dict)]
  return both | {name: combine(base[name], adapters[name]) for name in nested}


def merge(params: Params, scale: float, dtype: Any) -> Params:
  """A combined tree -> a plain one, cast to `dtype`, whose kernels have their adapters added."""
  return decoder.cast(_merged(params, scale), dtype)


class _Adapted(nn.Module):
  """One product; its parameters are given, never made."""

  summed: int
  dtype: Any
  scale: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    held = self.variables['params']
    kernel = _added(held, self.scale) if A in held else held['kernel']
    y = jnp.tensordot(x, kernel.astype(self.dtype), self.summed)
    return y + held['bias'].astype(self.dtype) if 'bias' in held else y


def _merged(params: Params, scale: float) -> Params:
  if A not in params:
    return {n: _merged(p, scale) if isinstance(p, dict) else p for n, p in params.items()}
  stacked = {name: params[name] for name in ('kernel', A, B)}
  kernel = jax.vmap(lambda held: _added(held, scale))(stacked)
  return {n: p for n, p in params.items() if n not in (A, B)} | {'kernel': kernel}


def _added(held: Params, scale: float) -> jax.Array:
  """kernel + scale * A B of one layer, in float32."""
  kernel, a, b = (held[name].astype(jnp.float32) for name in ('kernel', A, B))
  rank = b.shape[0]
  added = jnp.matmul(a.reshape(-1, rank), b.reshape(rank, -1), precision='highest')
  return kernel + scale * added.reshape(kernel.shape)


def _kernels(tree: Params, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
  found = []
  for name, leaf in tree.items():
    if isinstance(leaf, dict):
      found += _kernels(leaf, (*path, name))
    elif name == 'kernel':
      found.append((path, leaf))
  return found


def _sides(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
  """(inputs, outputs) of a stacked kernel."""
  summed = 2 if path[-1] == 'out' else 1
  return shape[1 : 1 + summed], shape[1 + summed :]
