"""The safetensors files of a folder, as one table of tensors that are read in slices."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from jaxsearch.types import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'


class Tensors(Mapping[str, tuple[int, ...]]):
  """Name -> shape of every tensor in a folder; `read` reads a part of one.

  Files are mapped into memory, so that only what is asked for is read.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens all files and reads their headers.

    Raises:
      UserError: if a file is missing, cut off or no safetensors file; names all such files.
    """
    self._folder = folder
    self._slices: dict[str, Any] = {}
    problems = []
    for name, tensors in self._files().items():
      try:
        file = safetensors.safe_open(folder / name, 'np')
        held = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118
      except (OSError, safetensors.SafetensorError) as error:
        problems.append(f'{name}: {error}')
        continue
      self._slices |= held
      problems += [f'{name}: holds no {tensor}' for tensor in sorted(tensors - held.keys())]
    if problems:
      raise UserError(
        f'{folder} is no whole checkpoint; copy these files again:\n  ' + '\n  '.join(problems)
      )

  def read(self, name: str, index: tuple[slice, ...] = (slice(None),)) -> np.ndarray:
    """A part of a tensor, as it is stored."""
    return self._slices[name][index]

  def __getitem__(self, name: str) -> tuple[int, ...]:
    return tuple(self._slices[name].get_shape())

  def __iter__(self) -> Iterator[str]:
    return iter(self._slices)

  def __len__(self) -> int:
    return len(self._slices)

  def _files(self) -> dict[str, set[str]]:
    """File -> the tensors that the index says are in it."""
    index = self._folder / INDEX
    if not index.is_file():
      if not (self._folder / SINGLE).is_file():
        raise UserError(
          f'{self._folder} has neither {SINGLE} nor {INDEX}. Weights are read from safetensors '
          "files; transformers' save_pretrained writes them from others."
        )
      return {SINGLE: set()}
    try:
      places = json.loads(index.read_text())['weight_map']
      files: dict[str, set[str]] = {}
      for tensor, file in places.items():
        files.setdefault(file, set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise UserError(f'{index} is no index of safetensors files: {error!r}.') from error
    return files
