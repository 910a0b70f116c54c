"""ZeroSearch's `/retrieve` of Wikipedia: one query, texts without ids and scores.

{"query": "…", "top_k": 5}
[{"text": "Title\nText"}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects import _replies, _requests
from jaxsearch.types import Document

PATHS = ('/retrieve',)
MOST_QUERIES = 1


def ask(queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
  """See `_contract.Dialect`."""
  return PATHS[0], {'query': queries[0], 'top_k': top_k}


def read(reply: Any, queries: int, top_k: int) -> _replies.Reply:
  """See `_contract.Dialect`."""
  return _replies.reply(_replies.lists([reply], queries), None, top_k)


def parse(path: str, body: Mapping[str, Any]) -> _requests.Asked | None:
  """See `_contract.Dialect`; `top_k` tells it from SkyRL-gym's."""
  if path not in PATHS or 'query' not in body or 'top_k' not in body:
    return None
  query, top_k = _requests.text(body, 'query'), _requests.number(body, 'top_k')
  return _requests.Asked((query,), top_k, single=True)


def render(asked: _requests.Asked, found: Sequence[Sequence[Document]]) -> list[dict[str, str]]:
  """See `_contract.Dialect`."""
  del asked
  return [{'text': f'{d.title}\n{d.text}'} for d in found[0]]
