"""What protocols with pairs of tags have in common: stretches of a segment, text of a response."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from jaxsearch.protocols import _contract, _prompts
from jaxsearch.text import stops
from jaxsearch.types import Kind, Question, Response


@dataclasses.dataclass(frozen=True, eq=False)
class Tagged:
  """The part of a protocol that its tags alone decide; see `_contract.Protocol`.

  Attributes:
    prompt: how the policy is asked.
    patterns: span name -> what finds its contents.
    observed: what stands for an observation where a response is read.
  """

  prompt: _prompts.Prompt

  patterns: ClassVar[Mapping[str, re.Pattern[bytes]]]
  observed: ClassVar[str]

  @property
  def span_names(self) -> tuple[str, ...]:
    """Names that `spans` gives."""
    return tuple(self.patterns)

  def prompt_ids(self, question: Question) -> np.ndarray:
    """int32 [n]."""
    return self.prompt.ids(question)

  def spans(self, segment: bytes) -> tuple[tuple[str, int, int], ...]:
    """(name, start, stop) of the contents of every closed pair, by start byte."""
    found = [
      (name, *match.span(1))
      for name, pattern in self.patterns.items()
      for match in pattern.finditer(segment)
    ]
    return tuple(sorted(found, key=lambda span: span[1]))

  def answer(self, response: Response) -> str | None:
    """Contents of the last closed answer pair, well-formed response or not."""
    said = self.said(response)
    return None if said is None else said.strip()

  def said(self, response: Response) -> str | None:
    """The same with the space around it."""
    text = self.read(response)
    end = text.rfind('</answer>')
    start = text.rfind('<answer>', 0, max(end, 0))
    return None if start < 0 else text[start + len('<answer>') : end]

  def read(self, response: Response) -> str:
    """What the policy wrote, with `observed` in the place of each observation."""
    replaced = {Kind.PROMPT: '', Kind.OBSERVATION: self.observed}
    return ''.join(replaced.get(kind, text) for kind, text in response.parts)


def between(opening: str, closing: str) -> re.Pattern[bytes]:
  """Finds what stands between two tags, up to the first closing one."""
  return re.compile(re.escape(opening.encode()) + b'(.*?)' + re.escape(closing.encode()), re.DOTALL)


def innermost(opening: str, closing: str) -> re.Pattern[bytes]:
  """Finds what stands between the last opening tag and the first closing one after it."""
  start, end = re.escape(opening.encode()), re.escape(closing.encode())
  return re.compile(start + b'((?:(?!' + start + b').)*?)' + end, re.DOTALL)


def search(segment: bytes, stop: str, pattern: re.Pattern[bytes]) -> _contract.Search:
  """The search whose closing tag stopped the segment; without queries if it holds none."""
  read = segment[: stops.stop_byte(stop, segment)]
  for match in pattern.finditer(read):
    query = match.group(1).decode('utf-8', errors='replace').strip()
    if query:
      return _contract.Search((query,), (('query', *match.span(1)),))
  return _contract.Search(queries=())
