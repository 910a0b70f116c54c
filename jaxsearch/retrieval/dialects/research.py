"""`/search` and `/batch_search` of ReSearch and ReCall, whose documents are FlashRAG's.

  {"query": ["…"], "top_n": 5, "return_score": true}    at /search a text instead of a list
  [[[{"id": "7", "contents": "Title\nText"}]], [[0.8]]]  at /search without the outer lists

Without `return_score` the scores and the pair around them are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects import _replies, _requests
from jaxsearch.types import Document

PATHS = ('/batch_search', '/search')
MOST_QUERIES = 0
_TOP_N = 10  # The original's default.


def ask(queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
  """See `_contract.Dialect`."""
  return PATHS[0], {'query': list(queries), 'top_n': top_k, 'return_score': True}


def read(reply: Any, queries: int, top_k: int) -> _replies.Reply:
  """See `_contract.Dialect`."""
  if not isinstance(reply, list) or len(reply) != 2:
    raise _replies.Malformed('wrong_shape: the reply is no pair of documents and scores')
  documents, scores = (_replies.lists(part, queries) for part in reply)
  return _replies.reply(documents, scores, top_k)


def parse(path: str, body: Mapping[str, Any]) -> _requests.Asked | None:
  """See `_contract.Dialect`."""
  if path not in PATHS:
    return None
  single = path == '/search'
  return _requests.Asked(
    (_requests.text(body, 'query'),) if single else _requests.texts(body, 'query'),
    _requests.number(body, 'top_n', _TOP_N),
    _requests.flag(body, 'return_score'),
    single,
  )


def render(asked: _requests.Asked, found: Sequence[Sequence[Document]]) -> list[Any]:
  """See `_contract.Dialect`."""
  documents = [[{'id': d.id, 'contents': f'{d.title}\n{d.text}'} for d in own] for own in found]
  scores = [[d.score for d in own] for own in found]
  if asked.single:
    return [documents[0], scores[0]] if asked.scores else documents[0]
  return [documents, scores] if asked.scores else documents
