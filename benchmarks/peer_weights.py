"""Our weights in other people's models, by their public interfaces, and the proof that they are.

A peer counts as checked if its logits equal ours. For that every leaf gets noise: norms of 1 and
biases of 0, as a new policy has them, would hide which of them went where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.huggingface import writing
from jaxsearch.models import decoder, sizes

_TOKENS = 12


def ours(size: sizes.Size) -> decoder.Params:
  """The random float32 parameters that `bench rollout` uses, as NumPy arrays."""
  params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), size)
  return jax.tree.map(np.asarray, params)


def transformers_model(
  size: sizes.Size, params: decoder.Params, *, dtype: str, device: str, attention: str = 'sdpa'
) -> Any:
  """The model of transformers that is like this policy, with `params` in it.

  Raises:
    RuntimeError: a parameter has no place there, or one there has no value.
  """
  import torch
  import transformers

  config = transformers.AutoConfig.for_model(
    writing.family(size), **writing.fields(size), bos_token_id=None, eos_token_id=None
  )
  with torch.device(device):
    made = transformers.AutoModelForCausalLM.from_config(
      config, dtype=getattr(torch, dtype), attn_implementation=attention
    )
  # Strict: whatever is misnamed or left out is told. A tied head is a name of its own.
  named = dict(writing.tensors(size, params, 'float32'))
  named.setdefault('lm_head.weight', named['model.embed_tokens.weight'])
  named = {name: torch.tensor(array) for name, array in named.items()}
  made.load_state_dict(named, strict=True)
  made.tie_weights()
  return made.eval()


def tunix_model(size: sizes.Size, params: decoder.Params, *, dtype: str) -> Any:
  """Qwen2 of google-tunix with `params` in it; its Llama does not read the base of the rotations.

  Policies without biases get some of 0.

  Raises:
    ValueError: a parameter has no place there, or one there has no value.
  """
  from flax import nnx
  from tunix.models.qwen2 import model as qwen2

  made = qwen2.Qwen2(
    qwen2.ModelConfig(
      num_layers=size.layers,
      vocab_size=size.vocab,
      embed_dim=size.embed,
      hidden_dim=size.hidden,
      num_heads=size.heads,
      head_dim=size.head_size,
      num_kv_heads=size.kv_heads,
      rope_theta=int(size.rope_base),
      norm_eps=size.norm_eps,
      use_tied_embedding=size.tied_embeddings,
      dtype=jnp.dtype(dtype),
      param_dtype=jnp.dtype(dtype),
    ),
    rngs=nnx.Rngs(0),
  )
  places = {
    '.'.join(map(str, path)): leaf for path, leaf in nnx.state(made, nnx.Param).flat_state()
  }
  values = dict(_tunix_named(size, params))
  wrong = sorted(places.keys() ^ values.keys())
  wrong += [n for n in places.keys() & values.keys() if places[n].shape != values[n].shape]
  if wrong:
    raise ValueError(f'google-tunix and we do not agree on {", ".join(wrong)}.')
  for path, leaf in nnx.state(made, nnx.Param).flat_state():
    leaf.value = jnp.asarray(values['.'.join(map(str, path))], leaf.dtype)
  return made


def difference(peer: str, size: sizes.Size) -> float:
  """Largest difference between the logits of `peer` and ours, of noisy weights in float32."""
  rng = np.random.default_rng(0)
  noisy = lambda a: (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32)
  params = jax.tree.map(noisy, ours(size))
  tokens = rng.integers(0, size.vocab, (1, _TOKENS)).astype(np.int32)
  hidden = decoder.hidden(params, size, tokens, dtype=jnp.float32, scan=True)
  expected = hidden[0] @ decoder.unembedding(params, size).T
  found = _LOGITS[peer](size, params, tokens)[0]
  return float(np.abs(np.asarray(expected) - np.asarray(found)).max())


def _transformers_logits(size: sizes.Size, params: decoder.Params, tokens: np.ndarray) -> Any:
  import torch

  made = transformers_model(size, params, dtype='float32', device='cpu')
  with torch.inference_mode():
    return made(torch.tensor(tokens, dtype=torch.long)).logits


def _tunix_logits(size: sizes.Size, params: decoder.Params, tokens: np.ndarray) -> Any:
  T = tokens.shape[1]
  seen = jnp.tril(jnp.ones((T, T), bool))[None]
  made = tunix_model(size, params, dtype='float32')
  return made(jnp.asarray(tokens), jnp.arange(T)[None], None, seen)[0]


_LOGITS = {
  'transformers': _transformers_logits,
  'transformers_continuous': _transformers_logits,
  'tunix': _tunix_logits,
}
PEERS = tuple(_LOGITS)
# A policy like Llama, and one like Qwen2 with everything that the first has not.
CHECKED = (
  sizes.find('tiny'),
  dataclasses.replace(
    sizes.find('tiny'), rope_base=1e6, attention_bias=True, tied_embeddings=False
  ),
)


def _tunix_named(size: sizes.Size, params: decoder.Params) -> Iterator[tuple[str, np.ndarray]]:
  """Our arrays by the names of google-tunix, whose matrices have our axes."""
  yield 'embedder.input_embedding', params['embed']
  yield 'final_norm.w', params['norm']
  if not size.tied_embeddings:
    yield 'lm_head.w', params['head'].T
  for i in range(size.layers):
    layer = jax.tree.map(lambda p, i=i: p[i], params['layers'])
    at = f'layers.{i}'
    for mine, theirs in (('query', 'q'), ('key', 'k'), ('value', 'v')):
      part = layer['attention'][mine]
      kernel = part['kernel']
      yield f'{at}.attn.{theirs}_proj.w', kernel
      none = np.zeros(kernel.shape[1:], kernel.dtype)
      yield f'{at}.attn.{theirs}_bias', part.get('bias', none).reshape(-1)
    yield f'{at}.attn.o_proj.w', layer['attention']['out']['kernel']
    for name in ('gate', 'up', 'down'):
      yield f'{at}.mlp.{name}_proj.kernel', layer['mlp'][name]['kernel']
    yield f'{at}.input_layernorm.w', layer['attention_norm']['scale']
    yield f'{at}.post_attention_layernorm.w', layer['mlp_norm']['scale']
