"""Writes a policy as a folder that `transformers` loads as its own."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from jaxsearch import plugins
from jaxsearch.huggingface import families
from jaxsearch.huggingface.families._common import describe
from jaxsearch.huggingface.tensors import INDEX, SINGLE
from jaxsearch.models import decoder
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import UserError

# Bytes of a file, as the hub recommends.
_FILE = 5 * 10**9


def write(
  folder: str | pathlib.Path,
  size: decoder.Size,
  params: decoder.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  dtype: str = 'float32',
  file_bytes: int = _FILE,
) -> None:
  """Writes weights, config.json, generation_config.json and the tokenizer's files.

  Args:
    folder: must exist and be empty.
    size: decides the family.
    params: on this host's devices; one tensor at a time is copied from them.
    tokenizer: of the policy.
    dtype: of the weights in the files: float32 keeps every bit, bfloat16 is half as large.
    file_bytes: tensors are cut into files of about so many.

  Raises:
    UserError: if no family can hold a policy of this size.
  """
  folder = pathlib.Path(folder)
  described = {
    **fields(size),
    'dtype': dtype,
    # The library's own defaults would be ids of other tokenizers.
    'bos_token_id': tokenizer.hf.bos_token_id,
    'eos_token_id': list(tokenizer.eos_ids),
  }
  tokenizer_lib.save(tokenizer, folder)
  _write_tensors(folder, tensors(size, params, dtype), file_bytes)
  library = tokenizer_lib.transformers_library()
  library.AutoConfig.for_model(family(size), **described).save_pretrained(str(folder))
  _speak_of_rotations_as_before(folder / 'config.json')


def family(size: decoder.Size) -> str:
  """The family that a policy of this size is of.

  Raises:
    UserError: there is none.
  """
  names = plugins.names(families.FOLDER)
  for name in names:
    if plugins.load(families.FOLDER, name).fits(size):
      return name
  raise UserError(
    f'no family of Hugging Face has a policy with qk_norm={size.qk_norm}, '
    f'attention_bias={size.attention_bias} and rope_factor={size.rope_factor}; those that can be '
    f'written are {", ".join(names)}.'
  )


def fields(size: decoder.Size) -> dict[str, Any]:
  """What config.json says of a policy of this size, without types of numbers and special ids.

  Raises:
    UserError: as `family`.
  """
  return {**describe(size), **plugins.load(families.FOLDER, family(size)).describe(size)}


def tensors(
  size: decoder.Size, params: decoder.Params, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
  """Name and value of every tensor of the family's files, one after the other.

  Raises:
    UserError: as `family`.
  """
  rows = {row.ours: row for row in plugins.load(families.FOLDER, family(size)).TENSORS}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    row = rows[jax.tree_util.keystr(path, simple=True, separator='/')]
    if '{}' not in row.theirs:
      yield row.theirs, row.write(np.asarray(leaf).astype(dtype))
      continue
    for i in range(leaf.shape[0]):
      yield row.theirs.format(i), row.write(np.asarray(leaf[i]).astype(dtype))


def _speak_of_rotations_as_before(path: pathlib.Path) -> None:
  """Readers older than transformers 5 look for these names, and take defaults without a word."""
  described = json.loads(path.read_text())
  rope = dict(described['rope_parameters'])
  described['rope_theta'] = rope.pop('rope_theta')
  described['rope_scaling'] = None if rope['rope_type'] == 'default' else rope
  path.write_text(json.dumps(described, indent=2) + '\n')


def _write_tensors(
  folder: pathlib.Path, tensors: Iterator[tuple[str, np.ndarray]], file_bytes: int
) -> None:
  """Files of at most `file_bytes`, or of one tensor, and an index if they are several."""
  places: dict[str, int] = {}
  held: dict[str, np.ndarray] = {}
  total, files = 0, 0
  for name, array in tensors:
    if held and sum(a.nbytes for a in held.values()) + array.nbytes > file_bytes:
      files = _write_file(folder, held, places, files)
    held[name] = array
    total += array.nbytes
  files = _write_file(folder, held, places, files)
  final = [f'model-{i + 1:05}-of-{files:05}.safetensors' for i in range(files)]
  if files == 1:
    (folder / _partial(0)).rename(folder / SINGLE)
    return
  for i, name in enumerate(final):
    (folder / _partial(i)).rename(folder / name)
  index = {
    'metadata': {'total_size': total},
    'weight_map': {n: final[i] for n, i in places.items()},
  }
  (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _write_file(
  folder: pathlib.Path, held: dict[str, Any], places: dict[str, int], number: int
) -> int:
  """Writes what is held as the file of this number; returns the next number."""
  safetensors.numpy.save_file(held, folder / _partial(number), metadata={'format': 'pt'})
  places |= dict.fromkeys(held, number)
  held.clear()
  return number + 1


def _partial(number: int) -> str:
  return f'model-{number:05}.partial'
