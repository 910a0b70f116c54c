"""The weights of a BERT or (XLM-)RoBERTa, from safetensors to the pytree of `models/bert`."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsearch.huggingface.tensors import Tensors
from jaxsearch.models import bert
from jaxsearch.types import UserError

# Buffers, and the pooler, which no embedding reads.
_IGNORED = re.compile(r'embeddings\.(position|token_type)_ids|pooler\.dense\.(weight|bias)')
_FIRST = 'embeddings.word_embeddings.weight'
_LAYER, _SELF = 'encoder.layer.{}.', 'encoder.layer.{}.attention.self.'
# Path of a parameter, without its layer -> its name there. Several: one below the other.
_MODULES = {
  'embeddings/norm': ('embeddings.LayerNorm',),
  'layers/qkv': (_SELF + 'query', _SELF + 'key', _SELF + 'value'),
  'layers/out': (_LAYER + 'attention.output.dense',),
  'layers/attention_norm': (_LAYER + 'attention.output.LayerNorm',),
  'layers/up': (_LAYER + 'intermediate.dense',),
  'layers/down': (_LAYER + 'output.dense',),
  'layers/mlp_norm': (_LAYER + 'output.LayerNorm',),
}
_TABLES = {'words': 'word_embeddings', 'positions': 'position_embeddings'}
_TABLES['types'] = 'token_type_embeddings'


class _Source(NamedTuple):
  """Where a parameter comes from: names there, and the shape of each."""

  names: tuple[str, ...]
  shape: tuple[int, ...]


def read(folder: pathlib.Path, size: bert.Size, *, scores: bool = False) -> bert.Params:
  """float32 arrays on the host, with the head of a cross-encoder if asked for.

  Raises:
    UserError: lists the files that cannot be read, or every tensor that is missing, left over or
      of another shape.
  """
  tensors = Tensors(folder)
  prefix = next((name[: -len(_FIRST)] for name in tensors if name.endswith(_FIRST)), '')
  abstract = jax.eval_shape(lambda: bert.init(jax.random.key(0), size, scores=scores))
  leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
  pooler, score = 'classifier.dense', 'classifier.out_proj'  # As RoBERTa has it.
  if f'{score}.weight' not in tensors:
    pooler, score = f'{prefix}pooler.dense', 'classifier'
  head = {'head/pooler': pooler, 'head/score': score}
  sources = [_source(path, leaf.shape, prefix, head) for path, leaf in leaves]
  problems = list(_problems(tensors, sources, prefix))
  if problems:
    raise UserError(
      f'The tensors in {folder} are not those of the encoder that its config.json describes:\n  '
      + '\n  '.join(problems)
    )
  return tree.unflatten([_read(tensors, source) for source in sources])


def _source(path: Any, shape: tuple[int, ...], prefix: str, head: dict[str, str]) -> _Source:
  """Of one parameter of ours."""
  ours = jax.tree_util.keystr(path, simple=True, separator='/')
  number = re.search(r'^layers/(\d+)/', ours)
  *module, leaf = re.sub(r'^layers/\d+/', 'layers/', ours).split('/')
  if leaf in _TABLES:
    return _Source((f'{prefix}embeddings.{_TABLES[leaf]}.weight',), shape)
  name, suffix = '/'.join(module), 'bias' if leaf == 'bias' else 'weight'
  theirs = (head[name],) if name in head else tuple(prefix + one for one in _MODULES[name])
  names = tuple(f'{one.format(number and number[1])}.{suffix}' for one in theirs)
  return _Source(names, (shape[0] // len(names), *shape[1:]))


def _read(tensors: Tensors, source: _Source) -> np.ndarray:
  return np.concatenate([tensors.read(name) for name in source.names]).astype(np.float32)


def _problems(tensors: Tensors, sources: list[_Source], prefix: str) -> Iterator[str]:
  expected = {name: source.shape for source in sources for name in source.names}
  for name, shape in expected.items():
    if name not in tensors:
      yield f'{name} is missing; shape {shape}'
    elif tensors[name] != shape:
      yield f'{name} has shape {tensors[name]}; it must be {shape}'
  for name in sorted(tensors.keys() - expected.keys()):
    if not _IGNORED.fullmatch(name.removeprefix(prefix)):
      yield f'{name} is not a part of this model'
