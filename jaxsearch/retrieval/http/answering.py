"""From the body of a request to the body of its answer: what `jaxsearch serve` says to what."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch.retrieval.dialects._contract import Dialect
from jaxsearch.retrieval.dialects._requests import Asked, BadRequest
from jaxsearch.types import Outcome, SearchResult

MOST_DOCUMENTS = 100  # Per query.
# From worst to best: what a request ends with if a query of it ends so.
_STATUS = {Outcome.ERROR: 502, Outcome.TIMEOUT: 504, Outcome.OVERLOADED: 503}


@dataclasses.dataclass(frozen=True)
class Told:
  """An answer.

  Attributes:
    status: of HTTP.
    json: the body.
    outcome: of the request; 'bad_request' if it is not one.
    outcomes: of its queries, as far as they were searched.
    dialect: in which it was asked, if that was found out.
  """

  status: int
  json: Any
  outcome: str
  outcomes: tuple[Outcome, ...] = ()
  dialect: str = 'unknown'


def understand(
  dialects: Mapping[str, Dialect], path: str, data: bytes, top_k: int
) -> tuple[str, Asked]:
  """The name of the dialect and the request in it, whose `top_k` is filled in.

  Raises:
    BadRequest: if no dialect knows it, or something is wrong in it.
  """
  try:
    body = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise BadRequest(f'the body is not JSON: {error}.') from None
  if not isinstance(body, dict):
    raise BadRequest('the body is no JSON object.')
  for name, dialect in dialects.items():
    asked = dialect.parse(path, body)
    if asked is not None:
      wanted = asked.top_k or top_k
      if wanted > MOST_DOCUMENTS:
        raise BadRequest(f'{wanted} documents per query; allowed: at most {MOST_DOCUMENTS}.')
      return name, dataclasses.replace(asked, top_k=wanted)
  fields = ', '.join(sorted(body)) or 'nothing'
  raise BadRequest(f'{path} takes queries or query; this request has {fields}.')


def tell(name: str, dialect: Dialect, asked: Asked, results: Sequence[SearchResult]) -> Told:
  """The answer to a request, `results[i]` being that of `asked.queries[i]`."""
  outcomes = tuple(result.outcome for result in results)
  failed = [outcome for outcome in _STATUS if outcome in outcomes]
  if not failed and results and set(outcomes) == {Outcome.BAD_QUERY}:
    failed = [Outcome.BAD_QUERY]
  if failed:
    message = results[outcomes.index(failed[0])].message
    told = refuse(_STATUS.get(failed[0], 400), failed[0], message, outcomes)
    return dataclasses.replace(told, dialect=name)
  found = [result.documents[0] if result.documents else () for result in results]
  outcome = Outcome.OK if any(found) else Outcome.EMPTY
  if Outcome.PARTIAL in outcomes:
    outcome = Outcome.PARTIAL
  return Told(200, dialect.render(asked, found), outcome, outcomes, name)


def refuse(status: int, outcome: str, message: str, outcomes: Sequence[Outcome] = ()) -> Told:
  """An answer without documents."""
  body = {'outcome': outcome, 'message': message, 'outcomes': list(outcomes)}
  return Told(status, body, outcome, tuple(outcomes))
