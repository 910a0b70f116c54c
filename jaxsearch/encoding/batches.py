"""Texts of like length run together, in few shapes, each compiled once.

A text is padded to the next of a few lengths, and rows are taken a fixed number at a time, so that
a process compiles a handful of programs and none after that.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from jaxsearch.models import bert
from jaxsearch.types import UserError

_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_FEW = 8  # Rows of a batch of few texts.
# Padded tokens of a full batch. On a CPU what a layer makes of them then stays in a core's cache:
# with eight times as many a token of MiniLM takes 1.2 (float32) to 1.8 (bfloat16) times as long.
_CPU_TOKENS, _TOKENS = 512, 16384
_DTYPES = ('float32', 'bfloat16')

# (params, ids [B,T], lengths [B], types [B,T]) -> [B,…]
Program = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


class Batches:
  """An encoder on one device; `run` gives it rows in fixed shapes."""

  def __init__(self, program: Program, params: bert.Params, size: bert.Size, dtype: str):
    """Puts the weights on the device; the matrices of products in `dtype`.

    Raises:
      UserError: there is no such type.
    """
    if dtype not in _DTYPES:
      raise UserError(f'an encoder of type {dtype!r}; allowed: {", ".join(_DTYPES)}.')
    self._program, self._device = jax.jit(program), _device()
    self._params = jax.device_put(bert.cast(params, jnp.dtype(dtype)), self._device)
    self._most = size.positions - size.first_position
    self._full = _CPU_TOKENS if self._device.platform == 'cpu' else _TOKENS

  def run(self, texts: Sequence[tokenizers.Encoding]) -> np.ndarray:
    """float32 [n,…], the program's result for each text or pair, in order; at least one."""
    lengths = [len(text.ids) for text in texts]
    made = [
      (places, self._dispatch([texts[i] for i in places], rows, time))
      for places, rows, time in plan(lengths, self._most, self._full)
    ]
    out = np.empty((len(texts), *made[0][1].shape[1:]), np.float32)
    for places, result in made:
      out[places] = np.asarray(result)[: len(places)]
    return out

  def warm_up(self, tokens: int) -> None:
    """Compiles what texts of up to so many tokens need, in any number."""
    for time in sorted({min(_padded(n), self._most) for n in range(1, tokens + 1)}):
      for rows in _sizes(time, self._full):
        self._dispatch([], rows, time).block_until_ready()

  def _dispatch(self, texts: Sequence[tokenizers.Encoding], rows: int, time: int) -> jax.Array:
    ids, types = np.zeros((2, rows, time), np.int32)
    lengths = np.ones(rows, np.int32)  # A row that nobody wants sees one token: no 0 / 0.
    for row, text in enumerate(texts):
      lengths[row] = n = len(text.ids)
      ids[row, :n], types[row, :n] = text.ids, text.type_ids
    with jax.default_device(self._device):
      return self._program(self._params, ids, lengths, types)


def plan(lengths: Sequence[int], most: int, full: int) -> Iterator[tuple[list[int], int, int]]:
  """(places, rows, time) of each batch: which texts, in how many rows of how many tokens.

  A batch is at least half full.

  Args:
    lengths: of the texts, in tokens.
    most: tokens that a row may have.
    full: padded tokens of a full batch.
  """
  buckets: dict[int, list[int]] = {}
  for place, length in enumerate(lengths):
    buckets.setdefault(min(_padded(length), most), []).append(place)
  for time, places in sorted(buckets.items()):
    while places:
      rows = next(size for size in _sizes(time, full) if 2 * len(places) >= size)
      yield places[:rows], rows, time
      places = places[rows:]


def _sizes(time: int, full: int) -> list[int]:
  """Rows that a batch of so many tokens a row may have, most first."""
  most = max(1, full // time)
  return sorted({most, min(most, _FEW), 1}, reverse=True)


def _padded(length: int) -> int:
  """The next of the lengths, or of the multiples of the longest."""
  if length > _LENGTHS[-1]:
    return -(-length // _LENGTHS[-1]) * _LENGTHS[-1]
  return _LENGTHS[bisect.bisect_left(_LENGTHS, length)]


def _device() -> jax.Device:
  """The first device of the platform that JAX_PLATFORMS names; if it names none, the CPU.

  Beside a trainer an encoder must not take the accelerator. In a process that has not begun to use
  JAX, none is touched.
  """
  named = jax.config.jax_platforms
  if not named:
    jax.config.update('jax_platforms', 'cpu')
  return jax.local_devices(backend=None if named else 'cpu')[0]
