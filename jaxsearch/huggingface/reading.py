"""Reads the weights of a Hugging Face folder onto a mesh, tensor by tensor.

Each device is given its own slice of a tensor as it is stored; transposing it, turning it into
float32 and putting it into its place among the layers happens on the devices. So a host holds one
tensor at a time, besides what its devices hold.
"""

from __future__ import annotations

import collections
import functools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsearch import plugins
from jaxsearch.huggingface import families
from jaxsearch.huggingface.families._common import Tensor
from jaxsearch.huggingface.tensors import Tensors
from jaxsearch.models import decoder
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import UserError

_CONFIG = 'config.json'
# Not weights, or a second copy of tied ones.
_IGNORED = re.compile(r'.*rotary_emb\.inv_freq')


def is_folder(folder: str | pathlib.Path) -> bool:
  """Whether `folder` is meant to be a Hugging Face model; a run has a config.json of its own."""
  path = pathlib.Path(folder) / _CONFIG
  return path.is_file() and 'model_type' in path.read_text(errors='replace')


def read_size(folder: str | pathlib.Path) -> decoder.Size:
  """The size of the model, by its config.json.

  Raises:
    UserError: if it cannot be read, is of no known family, or has what our decoder has not.
  """
  path = pathlib.Path(folder) / _CONFIG
  try:
    kind = json.loads(path.read_text())['model_type']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} does not describe a model: {error!r}.') from error
  known = plugins.names(families.FOLDER)
  if kind not in known:
    raise UserError(
      f'{path} has model_type {kind!r}; known families: {", ".join(known)}. A file in '
      'jaxsearch/huggingface/families/ adds another one.'
    )
  try:
    library = tokenizer_lib.transformers_library()
    described = library.AutoConfig.from_pretrained(str(path.parent), local_files_only=True)
    return plugins.load(families.FOLDER, kind).size(described)
  except UserError as error:
    raise UserError(f'{path.parent}: {error}') from error
  except Exception as error:  # The library raises whatever its checks raise.
    raise UserError(f'{path} cannot be read as a {kind}: {error}') from error


def read_params(folder: str | pathlib.Path, size: decoder.Size, places: Any) -> decoder.Params:
  """float32 parameters on `places`, a sharding for each leaf of `decoder.init`.

  Raises:
    UserError: lists the files that cannot be read, or every tensor that is missing, left over or
      of another shape, by both names.
  """
  folder = pathlib.Path(folder)
  kind = json.loads((folder / _CONFIG).read_text())['model_type']
  tensors = Tensors(folder)
  abstract = jax.eval_shape(lambda: decoder.init(jax.random.key(0), size))
  rows = {row.ours: row for row in plugins.load(families.FOLDER, kind).TENSORS}
  _check(tensors, rows, abstract, folder, tied=size.tied_embeddings)

  def leaf(path: Any, shape: jax.ShapeDtypeStruct, place: Any) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    row = rows[name]
    if not name.startswith('layers/'):
      raw = _raw(tensors, row, row.theirs, shape.shape, place)
      return _program(row, shape.shape, place)(raw)
    stack = jnp.zeros(shape.shape, jnp.float32, device=place)
    put = _program(row, shape.shape, place, stacked=True)
    inner = place
    if isinstance(place, NamedSharding):
      inner = NamedSharding(place.mesh, PartitionSpec(*_padded(place.spec, len(shape.shape))[1:]))
    for i in range(shape.shape[0]):
      raw = _raw(tensors, row, row.theirs.format(i), shape.shape[1:], inner)
      stack = put(raw, stack, i)
    return stack

  return jax.tree_util.tree_map_with_path(leaf, abstract, places)


def _raw(tensors: Tensors, row: Tensor, name: str, shape: tuple[int, ...], place: Any) -> jax.Array:
  """One tensor as it is stored, split as ours will be; devices share what they read alike."""
  theirs = place
  if isinstance(place, NamedSharding):
    theirs = NamedSharding(place.mesh, PartitionSpec(*row.spec(_padded(place.spec, len(shape)))))
  read = functools.cache(
    lambda index: np.ascontiguousarray(
      tensors.read(name, tuple(slice(*bounds) for bounds in index))
    )
  )
  return jax.make_array_from_callback(
    tensors[name], theirs, lambda index: read(tuple((part.start, part.stop) for part in index))
  )


@functools.cache
def _program(row: Tensor, shape: tuple[int, ...], place: Any, *, stacked: bool = False) -> Any:
  """(stored) -> ours of `shape`; stacked: (stored, layers so far, number) -> layers."""

  def put(raw: jax.Array, stack: jax.Array, i: int) -> jax.Array:
    ours = row.read(raw, shape[1:]).astype(jnp.float32)
    return jax.lax.dynamic_update_index_in_dim(stack, ours, i, 0)

  if stacked:
    return jax.jit(put, donate_argnums=1, out_shardings=place)
  return jax.jit(lambda raw: row.read(raw, shape).astype(jnp.float32), out_shardings=place)


def _padded(spec: PartitionSpec, axes: int) -> tuple[Any, ...]:
  return (*spec, *[None] * (axes - len(spec)))


def _check(
  tensors: Tensors, rows: dict[str, Tensor], abstract: Any, folder: pathlib.Path, *, tied: bool
) -> None:
  """Raises a UserError with everything in which the files are not what they should be."""
  expected: dict[str, tuple[str, tuple[int, ...]]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
    ours = jax.tree_util.keystr(path, simple=True, separator='/')
    row, layers = rows[ours], leaf.shape[0] if ours.startswith('layers/') else None
    shape = row.shape(leaf.shape if layers is None else leaf.shape[1:])
    names = [row.theirs] if layers is None else [row.theirs.format(i) for i in range(layers)]
    expected |= dict.fromkeys(names, (ours, shape))
  problems: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
  for name, (ours, shape) in expected.items():
    if name not in tensors:
      problems[re.sub(r'\d+', '*', name), f'({ours}) is missing; shape {shape}'].append(name)
    elif tensors[name] != shape:
      what = f'({ours}) has shape {tensors[name]}; it must be {shape}'
      problems[re.sub(r'\d+', '*', name), what].append(name)
  for name in sorted(tensors.keys() - expected.keys()):
    if not (_IGNORED.fullmatch(name) or (tied and name == rows['head'].theirs)):
      problems[re.sub(r'\d+', '*', name), 'is not a part of this model'].append(name)
  if problems:
    raise UserError(
      f'The tensors in {folder} are not those that its {_CONFIG} describes:\n  '
      + '\n  '.join(_lines(problems))
    )


def _lines(problems: dict[tuple[str, str], list[str]]) -> Iterator[str]:
  """One line for the same problem in several layers."""
  for (pattern, what), names in problems.items():
    several = f'{pattern}, {len(names)} of them from {names[0]} on,'
    yield f'{names[0] if len(names) == 1 else several} {what}'
