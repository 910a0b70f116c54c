"""Shapes of policies by name, for benchmarks with random weights."""

from __future__ import annotations

from jaxsearch import plugins
from jaxsearch.models.decoder import Size
from jaxsearch.types import UserError

_QWEN = {'rope_base': 1e6, 'attention_bias': True, 'head_size': 128}

SIZES = {
  'tiny': Size(300, layers=2, embed=32, heads=4, kv_heads=2, head_size=16, hidden=64),
  # 50 million parameters: what two CPU cores can compare engines with.
  '50m': Size(8192, layers=10, embed=640, heads=8, kv_heads=2, head_size=80, hidden=1792),
  'qwen2p5_1p5b': Size(151936, layers=28, embed=1536, heads=12, kv_heads=2, hidden=8960, **_QWEN),
  'qwen2p5_3b': Size(151936, layers=36, embed=2048, heads=16, kv_heads=2, hidden=11008, **_QWEN),
  'qwen2p5_7b': Size(
    152064,
    layers=28,
    embed=3584,
    heads=28,
    kv_heads=4,
    hidden=18944,
    tied_embeddings=False,
    **_QWEN,
  ),
}


def find(name: str) -> Size:
  """The shape called `name`.

  Raises:
    UserError: there is none.
  """
  if name not in SIZES:
    raise UserError(
      f'there is no model {name!r}; allowed: {", ".join(SIZES)}.{plugins.nearest(name, SIZES)}'
    )
  return SIZES[name]
