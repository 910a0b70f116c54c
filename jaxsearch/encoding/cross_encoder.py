"""How well texts answer a query, by a model that reads both: the last word of a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxsearch.encoding import weights
from jaxsearch.encoding.batches import Batches
from jaxsearch.encoding.folder import Folder, clean
from jaxsearch.models import bert
from jaxsearch.types import UserError


class CrossEncoder:
  """Pairs of query and text to scores.

  Attributes:
    sha256: of all that a score depends on besides query and text.
  """

  def __init__(self, folder: Folder, dtype: str):
    """Reads and places the weights; `open` has what it raises."""
    self.sha256 = folder.sha256()
    self._tokenizer = folder.tokenizer()
    params = weights.read(folder.path, folder.size, scores=True)

    def score(
      params: bert.Params, ids_BT: jax.Array, lengths_B: jax.Array, types_BT: jax.Array
    ) -> jax.Array:
      return bert.score(params, bert.hidden(params, folder.size, ids_BT, lengths_B, types_BT))

    self._batches = Batches(score, params, folder.size, dtype)

  def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
    """float32 [n], larger for better matches: the model's one output, without a sigmoid.

    Of a pair that is too long, the longer one is cut.

    Raises:
      ValueError: for a score that is not finite.
    """
    if not len(texts):
      return np.empty(0, np.float32)
    query = clean(query)
    pairs = [(query, clean(text)) for text in texts]
    scores = self._batches.run(self._tokenizer.encode_batch_fast(pairs))
    if not np.isfinite(scores).all():
      raise ValueError('the cross-encoder made a score that is not finite')
    return scores


def open(folder: str, dtype: str = 'float32') -> CrossEncoder:
  """Opens the classifier of one label in a Hugging Face folder.

  Args:
    folder: config.json, tokenizer.json and model.safetensors of a BertForSequenceClassification or
      its like of (XLM-)RoBERTa.
    dtype: of the products, float32 or bfloat16; their sums and all else are float32.

  Raises:
    UserError: it is no such folder; names file, value and tensor.
  """
  made = CrossEncoder(Folder(folder), dtype)
  try:
    made.scores('A query.', ['A text.'])
  except ValueError as error:
    raise UserError(f'{folder} holds weights that cannot be used: {error}.') from error
  return made
