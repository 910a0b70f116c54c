"""Shapes of policies by name, for benchmarks with random weights and for plans."""

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
  'qwen2p5_32b': Size(
    152064,
    layers=64,
    embed=5120,
    heads=40,
    kv_heads=8,
    hidden=27648,
    tied_embeddings=False,
    **_QWEN,
  ),
  'qwen3_8b': Size(
    151936,
    layers=36,
    embed=4096,
    heads=32,
    kv_heads=8,
    head_size=128,
    hidden=12288,
    rope_base=1e6,
    qk_norm=True,
    tied_embeddings=False,
  ),
  'llama3p2_3b': Size(
    128256,
    layers=28,
    embed=3072,
    heads=24,
    kv_heads=8,
    head_size=128,
    hidden=8192,
    rope_base=5e5,
    norm_eps=1e-5,
    rope_factor=32.0,
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
