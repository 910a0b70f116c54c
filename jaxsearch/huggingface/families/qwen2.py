"""Qwen2 and Qwen2.5 (arXiv 2412.15115): biases on query, key and value."""

from __future__ import annotations

from typing import Any

from jaxsearch.huggingface.families import _common
from jaxsearch.models.decoder import Size

TENSORS = (
  *_common.TENSORS,
  *(
    _common.Tensor(
      f'layers/attention/{ours}/bias', f'model.layers.{{}}.self_attn.{theirs}.bias', flat=True
    )
    for ours, theirs in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj'))
  ),
)


def size(described: Any) -> Size:
  """See `_common.size`."""
  return _common.size(described, attention_bias=True)


def fits(size: Size) -> bool:
  """Whether a policy of this size is one."""
  return size.attention_bias and not size.qk_norm and size.rope_factor == 1.0


def describe(size: Size) -> dict[str, Any]:
  """Sliding windows are an option of the family that we have not."""
  del size
  return {'architectures': ['Qwen2ForCausalLM'], 'use_sliding_window': False}
