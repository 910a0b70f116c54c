"""How much of a search's answer is shown: whole documents as long as they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxsearch.types import SearchResult

# (answer, documents of each query) -> ids of the observation.
Encode = Callable[[SearchResult, int], np.ndarray]


def fit(
  result: SearchResult, encode: Encode, room: int, allowed: int
) -> tuple[np.ndarray, int] | None:
  """(ids, documents of each query that they show); None if not even one has room in the context.

  Documents are left out from the last one on, so that the closing tag survives.

  Args:
    result: the answer.
    encode: how it is shown.
    room: ids that the context can take.
    allowed: ids that an observation may have; a first document that is too long for this alone is
      cut short.
  """
  found = max((len(documents) for documents in result.documents), default=0)
  for shown in range(found, -1 if found == 0 else 0, -1):
    ids = encode(result, shown)
    if shown == 1 and len(ids) > allowed and allowed < room:
      ids = _cut(result, encode, allowed / len(ids), allowed)
    # What cannot be cut any further may be longer than is allowed.
    if len(ids) <= (min(room, allowed) if shown > 1 else room):
      return ids, shown
  return None


def _cut(result: SearchResult, encode: Encode, share: float, allowed: int) -> np.ndarray:
  """The first document of each query with as much text as is allowed, about `share` of it."""
  while True:
    first = tuple(
      tuple(dataclasses.replace(d, text=d.text[: int(share * len(d.text))]) for d in found[:1])
      for found in result.documents
    )
    ids = encode(dataclasses.replace(result, documents=first), 1)
    if len(ids) <= allowed or not any(d.text for found in first for d in found):
      return ids
    share *= 0.9
