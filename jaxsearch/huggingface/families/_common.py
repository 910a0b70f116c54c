"""What the families share: names of tensors, and the fields of config.json that all have."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsearch.models.decoder import Size
from jaxsearch.types import UserError


class Tensor(NamedTuple):
  """One parameter by both names.

  Attributes:
    ours: its path in our pytree; under layers/ it has a leading axis of layers, which is not
      counted here.
    theirs: its name in a safetensors file; {} is the number of the layer.
    summed: axes of ours that are summed over in a product. Theirs is the matrix [rest, summed].
      0: no matrix, or a table of rows that both keep the same way.
    flat: theirs has one axis whatever ours has.
  """

  ours: str
  theirs: str
  summed: int = 0
  flat: bool = False

  def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of theirs."""
    if self.flat:
      return (math.prod(ours),)
    if not self.summed:
      return ours
    return math.prod(ours[self.summed :]), math.prod(ours[: self.summed])

  def spec(self, ours: tuple[Any, ...]) -> tuple[Any, ...]:
    """The mesh axes of theirs. Of axes that are one there, only the first may be split."""
    if self.flat:
      return ours[:1]
    return (ours[self.summed], ours[0]) if self.summed else ours

  def read(self, theirs: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Ours, of `shape`."""
    return (theirs.T if self.summed else theirs).reshape(shape)

  def write(self, ours: np.ndarray) -> np.ndarray:
    """Theirs, contiguous."""
    if not self.summed:
      return np.ascontiguousarray(ours.reshape(self.shape(ours.shape)))
    return np.ascontiguousarray(ours.reshape(self.shape(ours.shape)[::-1]).T)


_LAYER, _ATTENTION = 'model.layers.{}.', 'model.layers.{}.self_attn.'
TENSORS = (
  Tensor('embed', 'model.embed_tokens.weight'),
  Tensor('norm', 'model.norm.weight'),
  Tensor('head', 'lm_head.weight'),
  Tensor('layers/attention_norm/scale', _LAYER + 'input_layernorm.weight'),
  Tensor('layers/mlp_norm/scale', _LAYER + 'post_attention_layernorm.weight'),
  Tensor('layers/attention/query/kernel', _ATTENTION + 'q_proj.weight', summed=1),
  Tensor('layers/attention/key/kernel', _ATTENTION + 'k_proj.weight', summed=1),
  Tensor('layers/attention/value/kernel', _ATTENTION + 'v_proj.weight', summed=1),
  Tensor('layers/attention/out/kernel', _ATTENTION + 'o_proj.weight', summed=2),
  Tensor('layers/mlp/gate/kernel', _LAYER + 'mlp.gate_proj.weight', summed=1),
  Tensor('layers/mlp/up/kernel', _LAYER + 'mlp.up_proj.weight', summed=1),
  Tensor('layers/mlp/down/kernel', _LAYER + 'mlp.down_proj.weight', summed=1),
)


def size(described: Any, **options: Any) -> Size:
  """The size that a configuration of transformers describes.

  Raises:
    UserError: names what it has that our decoder has not.
  """
  rope = described.rope_parameters
  _require(described.hidden_act == 'silu', 'hidden_act', described.hidden_act, 'silu')
  sliding = 'sliding_attention' in (getattr(described, 'layer_types', None) or ())
  _require(not sliding, 'use_sliding_window', True, 'false')
  quantized = getattr(described, 'quantization_config', None)
  _require(quantized is None, 'quantization_config', quantized, 'none: the weights as trained')
  scaled = options.get('rope_factor', 1.0) != 1.0
  _require(scaled or rope['rope_type'] == 'default', 'rope_type', rope['rope_type'], 'default')
  heads = described.num_attention_heads
  return Size(
    vocab=described.vocab_size,
    layers=described.num_hidden_layers,
    embed=described.hidden_size,
    heads=heads,
    kv_heads=described.num_key_value_heads,
    head_size=getattr(described, 'head_dim', None) or described.hidden_size // heads,
    hidden=described.intermediate_size,
    rope_base=float(rope['rope_theta']),
    norm_eps=described.rms_norm_eps,
    tied_embeddings=described.tie_word_embeddings,
    positions=described.max_position_embeddings,
    **options,
  )


def describe(size: Size) -> dict[str, Any]:
  """The fields that every family's configuration has."""
  return {
    'vocab_size': size.vocab,
    'hidden_size': size.embed,
    'intermediate_size': size.hidden,
    'num_hidden_layers': size.layers,
    'num_attention_heads': size.heads,
    'num_key_value_heads': size.kv_heads,
    'head_dim': size.head_size,
    'rms_norm_eps': size.norm_eps,
    'tie_word_embeddings': size.tied_embeddings,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': size.rope_base},
    'max_position_embeddings': size.positions or _POSITIONS,
  }


# Said of policies that nobody knows it of: as long as a run may make a row.
_POSITIONS = 32768


def require_without(described: Any, *switches: str) -> None:
  """Refuses options of a family that our decoder has not.

  Raises:
    UserError: names the first that is on.
  """
  for name in switches:
    _require(not getattr(described, name, False), name, True, 'false')


def _require(fine: bool, name: str, value: Any, allowed: str) -> None:
  if not fine:
    raise UserError(f'config.json has {name} = {value!r}; supported: {allowed}.')
