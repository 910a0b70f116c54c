"""What a backend file offers.

open(config: config.Retrieval) -> Backend
open_encoder(config: config.Retrieval) -> Encoder   only where it searches by vectors
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxsearch.types import SearchRequest, SearchResult


class Backend(Protocol):
  """An opened index. It lives in one process and is asked by one thread.

  Attributes:
    identity: names all that answers depend on besides queries and `top_k`, such as the build of an
      index; they may then be kept and shared. '' if they depend on more.
  """

  identity: str

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Answers every request, in order.

    An answer depends on its request and the index alone, never on the other requests of the
    call. Per query at most `top_k` documents with finite scores. Randomness comes from
    `request.key` only.
    """
    ...


class Encoder(Protocol):
  """What turns queries into vectors; it lives in a process of its own, which may run JAX.

  Attributes:
    identity: names all that a vector depends on besides its text.
  """

  identity: str

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, dimensions]; a vector depends on its text alone."""
    ...
