"""Llama 3 to 3.3 (arXiv 2407.21783); from 3.1 on, slow rotations are slowed down."""

from __future__ import annotations

from typing import Any

from jaxsearch.huggingface.families import _common
from jaxsearch.models.decoder import Size

TENSORS = _common.TENSORS
# Our names of the fields that describe the slowing down.
_ROPE = {
  'rope_factor': 'factor',
  'rope_low': 'low_freq_factor',
  'rope_high': 'high_freq_factor',
  'rope_context': 'original_max_position_embeddings',
}


def size(described: Any) -> Size:
  """See `_common.size`."""
  _common.require_without(described, 'attention_bias', 'mlp_bias')
  rope = described.rope_parameters
  slowed = rope['rope_type'] == 'llama3'
  scaled = {ours: rope[theirs] for ours, theirs in _ROPE.items()} if slowed else {}
  return _common.size(described, **scaled)


def fits(size: Size) -> bool:
  """Whether a policy of this size is one."""
  return not (size.attention_bias or size.qk_norm)


def describe(size: Size) -> dict[str, Any]:
  """How rotations are slowed down, if they are."""
  fields: dict[str, Any] = {'architectures': ['LlamaForCausalLM']}
  if size.rope_factor != 1.0:
    scaled = {theirs: getattr(size, ours) for ours, theirs in _ROPE.items()}
    rope = {'rope_type': 'llama3', 'rope_theta': size.rope_base, **scaled}
    fields['rope_parameters'] = rope
  return fields
