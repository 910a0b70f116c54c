"""What protocols with pairs of tags have in common: stretches of a segment, text of a response."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jaxsearch.protocols import _contract
from jaxsearch.text import stops
from jaxsearch.types import Kind, Response


def between(opening: str, closing: str) -> re.Pattern[bytes]:
  """Finds what stands between two tags, up to the first closing one."""
  return re.compile(re.escape(opening.encode()) + b'(.*?)' + re.escape(closing.encode()), re.DOTALL)


def innermost(opening: str, closing: str) -> re.Pattern[bytes]:
  """Finds what stands between the last opening tag and the first closing one after it."""
  start, end = re.escape(opening.encode()), re.escape(closing.encode())
  return re.compile(start + b'((?:(?!' + start + b').)*?)' + end, re.DOTALL)


def spans(
  segment: bytes, patterns: Mapping[str, re.Pattern[bytes]]
) -> tuple[tuple[str, int, int], ...]:
  """(name, start, stop) of every match's contents, by start byte."""
  found = [
    (name, *match.span(1))
    for name, pattern in patterns.items()
    for match in pattern.finditer(segment)
  ]
  return tuple(sorted(found, key=lambda span: span[1]))


def search(segment: bytes, stop: str, pattern: re.Pattern[bytes]) -> _contract.Search:
  """The search whose closing tag stopped the segment; without queries if it holds none."""
  read = segment[: stops.stop_byte(stop, segment)]
  for match in pattern.finditer(read):
    query = match.group(1).decode('utf-8', errors='replace').strip()
    if query:
      return _contract.Search((query,), (('query', *match.span(1)),))
  return _contract.Search(queries=())


def policy_text(response: Response, observation: str) -> str:
  """What the policy wrote, with `observation` in the place of each observation."""
  replaced = {Kind.PROMPT: '', Kind.OBSERVATION: observation}
  return ''.join(replaced.get(kind, text) for kind, text in response.parts)


def last(text: str, opening: str, closing: str) -> str | None:
  """Contents of the last closed pair of tags; None if there is none."""
  end = text.rfind(closing)
  start = text.rfind(opening, 0, max(end, 0))
  return None if start < 0 else text[start + len(opening) : end]
