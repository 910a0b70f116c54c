"""R1-Searcher's `/queries`: texts without ids and scores.

{"queries": ["…"], "k": 3}
{"queries": ["…"], "answers": [["Title\nText"]]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects import _replies, _requests
from jaxsearch.types import Document

PATHS = ('/queries',)
MOST_QUERIES = 0
_K = 3  # The original's default.


def ask(queries: Sequence[str], top_k: int) -> tuple[str, dict[str, Any]]:
  """See `_contract.Dialect`."""
  return PATHS[0], {'queries': list(queries), 'k': top_k}


def read(reply: Any, queries: int, top_k: int) -> _replies.Reply:
  """See `_contract.Dialect`."""
  answers = _replies.lists(_replies.field(reply, 'answers'), queries)
  return _replies.reply(answers, None, top_k)


def parse(path: str, body: Mapping[str, Any]) -> _requests.Asked | None:
  """See `_contract.Dialect`."""
  if path not in PATHS:
    return None
  return _requests.Asked(_requests.texts(body, 'queries'), _requests.number(body, 'k', _K))


def render(asked: _requests.Asked, found: Sequence[Sequence[Document]]) -> dict[str, Any]:
  """See `_contract.Dialect`."""
  answers = [[f'{d.title}\n{d.text}' for d in own] for own in found]
  return {'queries': list(asked.queries), 'answers': answers}
