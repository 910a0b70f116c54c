"""Search-R1's `/retrieve`: also of verl, slime, SkyRL's agent, StepSearch, ASearcher.

  {"queries": ["…"], "topk": 3, "return_scores": true}
  {"result": [[{"document": {"id": "7", "contents": "\"Title\"\nText"}, "score": 0.8}]]}

Without `return_scores` rows are bare documents. A client must ask for scores: the original server
fails without them (it answers 500, and nonsense to exactly two queries). Rows of its BM25 have
`title` and `text` and no id; its proxies to search engines send neither id nor score, and as many
rows as they were started for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects import _replies, _requests
from jaxsearch.types import Document

PATHS = ('/retrieve',)
MOST_QUERIES = 0


def ask(queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
  """See `_contract.Dialect`."""
  return PATHS[0], {'queries': list(queries), 'topk': top_k, 'return_scores': True}


def read(reply: Any, queries: int, top_k: int) -> _replies.Reply:
  """See `_contract.Dialect`."""
  found = _replies.lists(_replies.field(reply, 'result'), queries)
  rows = [[_open(row) for row in own] for own in found]
  return _replies.reply(
    [[document for document, _ in own] for own in rows],
    [[score for _, score in own] for own in rows],
    top_k,
  )


def parse(path: str, body: Mapping[str, Any]) -> _requests.Asked | None:
  """See `_contract.Dialect`."""
  if path not in PATHS or 'queries' not in body:
    return None
  return _requests.Asked(
    _requests.texts(body, 'queries'),
    _requests.number(body, 'topk'),
    _requests.flag(body, 'return_scores'),
  )


def render(asked: _requests.Asked, found: Sequence[Sequence[Document]]) -> dict[str, Any]:
  """See `_contract.Dialect`."""
  return {'result': [[_row(document, asked.scores) for document in own] for own in found]}


def _open(row: Any) -> tuple[Any, Any]:
  """(document, score) of a row with or without its wrapper."""
  if isinstance(row, dict) and 'document' in row:
    return row['document'], row.get('score')
  return row, None


def _row(document: Document, scores: bool) -> dict[str, Any]:
  title = f'"{document.title}"' if document.title else ''
  bare = {'id': document.id, 'contents': f'{title}\n{document.text}'}
  return {'document': bare, 'score': document.score} if scores else bare
