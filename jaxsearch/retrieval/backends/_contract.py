"""What a backend file offers: `open(config: config.Retrieval) -> Backend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxsearch.types import SearchRequest, SearchResult


class Backend(Protocol):
  """An opened index. It lives in one process and is asked by one thread."""

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Answers every request, in order.

    An answer depends on its request and the index alone, never on the other requests of the
    call. Per query at most `top_k` documents with finite scores. Randomness comes from
    `request.key` only.
    """
    ...
