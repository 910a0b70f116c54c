"""Queries and passages as vectors: the encoder of a Hugging Face folder, by its own rules.

A process takes an accelerator for it only if JAX_PLATFORMS names one: beside a trainer an encoder
belongs on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.encoding import weights
from jaxsearch.encoding.batches import Batches, Program
from jaxsearch.encoding.folder import Folder, clean
from jaxsearch.models import bert
from jaxsearch.types import UserError


class TextEncoder:
  """Texts to vectors.

  Attributes:
    dimensions: of a vector.
    identity: what a vector depends on, for the manifest of an index: name, sha256 of the files,
      pooling, normalize, query_prefix, passage_prefix, lower, max_tokens.
  """

  def __init__(self, folder: Folder, dtype: str):
    """Reads and places the weights; `open` has what it raises."""
    self._recipe, self._tokenizer = folder.recipe, folder.tokenizer()
    params = weights.read(folder.path, folder.size)
    program = _program(folder.size, _POOLINGS[self._recipe.pooling])
    self._batches = Batches(program, params, folder.size, dtype)
    self.dimensions = folder.size.embed
    recipe = dataclasses.asdict(self._recipe)
    self.identity: dict[str, Any] = {'name': folder.name, 'sha256': folder.sha256(), **recipe}

  def encode(self, texts: Sequence[str], kind: str) -> np.ndarray:
    """float32 [n, dimensions].

    Args:
      texts: empty ones too; of a long one, what is behind `max_tokens` is not read.
      kind: 'query' or 'passage', which may have different prefixes.

    Raises:
      ValueError: for another kind, or a vector that is not finite.
    """
    prefixes = {'query': self._recipe.query_prefix, 'passage': self._recipe.passage_prefix}
    if kind not in prefixes:
      raise ValueError(f'kind is {kind!r}; allowed: query, passage')
    if not len(texts):
      return np.empty((0, self.dimensions), np.float32)
    whole = [prefixes[kind] + clean(text) for text in texts]
    if self._recipe.lower:
      whole = [text.lower() for text in whole]
    vectors = self._batches.run(self._tokenizer.encode_batch_fast(whole))
    if self._recipe.normalize:
      # Here, as NumPy divides every row alike: XLA does it in another way in other shapes.
      vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if not np.isfinite(vectors).all():
      raise ValueError('the encoder made a vector that is not finite')
    return vectors

  def warm_up(self, tokens: int = 64) -> None:
    """Compiles what texts of up to so many tokens need; otherwise their first call does.

    About half a second for each of some ten shapes; who only encodes a corpus needs a few of them.
    """
    self._batches.warm_up(tokens)


def open(folder: str, dtype: str = 'float32') -> TextEncoder:
  """Opens the encoder of a Hugging Face folder.

  Args:
    folder: config.json, tokenizer.json and model.safetensors of a BERT or (XLM-)RoBERTa, with what
      sentence-transformers writes beside them.
    dtype: of the products, float32 or bfloat16; their sums and all else are float32.

  Raises:
    UserError: it is no such folder, or asks for what we do not do; names file, value and tensor.
  """
  made = TextEncoder(Folder(folder), dtype)
  try:
    made.encode(['A text.'], 'passage')
  except ValueError as error:
    raise UserError(f'{folder} holds weights that cannot be used: {error}.') from error
  return made


def _program(size: bert.Size, pool: Callable[[jax.Array, jax.Array], jax.Array]) -> Program:
  """Ids to vectors [B,D], of any length."""

  def vectors(
    params: bert.Params, ids_BT: jax.Array, lengths_B: jax.Array, types_BT: jax.Array
  ) -> jax.Array:
    x_BTD = bert.hidden(params, size, ids_BT, lengths_B, types_BT)
    return pool(x_BTD, lengths_B)

  return vectors


def _mean(x_BTD: jax.Array, lengths_B: jax.Array) -> jax.Array:
  is_there_BT = jnp.arange(x_BTD.shape[1]) < lengths_B[:, None]
  return jnp.where(is_there_BT[..., None], x_BTD, 0.0).sum(axis=1) / lengths_B[:, None]


def _cls(x_BTD: jax.Array, lengths_B: jax.Array) -> jax.Array:
  del lengths_B
  return x_BTD[:, 0]


_POOLINGS = {'mean': _mean, 'cls': _cls}
