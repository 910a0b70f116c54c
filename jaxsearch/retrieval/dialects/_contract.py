"""What a dialect file offers: the same requests and replies, as a client and as a server sees them.

All requests are POSTs of a JSON object; replies are JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jaxsearch.retrieval.dialects._replies import Reply
from jaxsearch.retrieval.dialects._requests import Asked
from jaxsearch.types import Document


class Dialect(Protocol):
  """A module of this folder.

  Attributes:
    PATHS: where a server answers it.
    MOST_QUERIES: of one request; 0: any number.
  """

  PATHS: tuple[str, ...]
  MOST_QUERIES: int

  def ask(self, queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
    """The path, one of `PATHS`, and the body with which a client asks."""
    ...

  def read(self, reply: Any, queries: int, top_k: int) -> Reply:
    """What a client understands of the reply to a request with so many queries.

    Raises:
      Malformed: if the reply is none in this dialect.
    """
    ...

  def parse(self, path: str, body: Mapping[str, Any]) -> Asked | None:
    """What a server is asked; None if this is another dialect's request.

    Raises:
      BadRequest: if it is one of this dialect with something wrong in it.
    """
    ...

  def render(self, asked: Asked, found: Sequence[Sequence[Document]]) -> Any:
    """How a server answers, `found[i]` being the documents of `asked.queries[i]`."""
    ...
