"""Qwen3 (arXiv 2505.09388): a norm on the query and key of every head, and no biases."""

from __future__ import annotations

from typing import Any

from jaxsearch.huggingface.families import _common
from jaxsearch.models.decoder import Size

TENSORS = (
  *_common.TENSORS,
  _common.Tensor('layers/attention/query_norm/scale', 'model.layers.{}.self_attn.q_norm.weight'),
  _common.Tensor('layers/attention/key_norm/scale', 'model.layers.{}.self_attn.k_norm.weight'),
)


def size(described: Any) -> Size:
  """See `_common.size`."""
  _common.require_without(described, 'attention_bias')
  return _common.size(described, qk_norm=True)


def fits(size: Size) -> bool:
  """Whether a policy of this size is one."""
  return size.qk_norm and not size.attention_bias and size.rope_factor == 1.0


def describe(size: Size) -> dict[str, Any]:
  """Sliding windows are an option of the family that we have not."""
  del size
  return {'architectures': ['Qwen3ForCausalLM'], 'use_sliding_window': False}
