"""SkyRL-gym's `/retrieve`: Search-R1's with a single query, which its own server asks for.

{"query": "…", "topk": 3, "return_scores": true}
{"result": [[{"document": {…}, "score": 0.8}]]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects import _replies, _requests, search_r1
from jaxsearch.types import Document

PATHS = search_r1.PATHS
MOST_QUERIES = 1


def ask(queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
  """See `_contract.Dialect`."""
  return PATHS[0], {'query': queries[0], 'topk': top_k, 'return_scores': True}


def read(reply: Any, queries: int, top_k: int) -> _replies.Reply:
  """See `_contract.Dialect`."""
  return search_r1.read(reply, queries, top_k)


def parse(path: str, body: Mapping[str, Any]) -> _requests.Asked | None:
  """See `_contract.Dialect`; with `top_k` in place of `topk` it is ZeroSearch's."""
  if path not in PATHS or 'query' not in body or 'top_k' in body:
    return None
  return _requests.Asked(
    (_requests.text(body, 'query'),),
    _requests.number(body, 'topk'),
    _requests.flag(body, 'return_scores'),
    single=True,
  )


def render(asked: _requests.Asked, found: Sequence[Sequence[Document]]) -> dict[str, Any]:
  """See `_contract.Dialect`."""
  return search_r1.render(asked, found)
