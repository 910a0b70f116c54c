"""What a protocol file offers; the underscore only keeps this file out of the plug-ins.

A protocol file defines `open(config: config.Protocol, tokenizer: Tokenizer) -> Protocol`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping

import numpy as np

from jaxsearch.types import Question, Response, SearchResult, Status


@dataclasses.dataclass(frozen=True)
class Search:
  """Park the row and ask the retriever.

  Attributes:
    queries: what to ask; empty if the policy's tag held nothing (outcome `bad_query`, without
      asking the retriever).
    spans: (name, start, stop) of each query, a byte range in the segment.
  """

  queries: tuple[str, ...]
  spans: tuple[tuple[str, int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Finish:
  """End the trajectory."""

  status: Status


@dataclasses.dataclass(frozen=True)
class Notice:
  """Append `text` as an observation and go on."""

  text: str


class Protocol(typing.Protocol):
  """How the policy is asked, when it pauses, and where its answer stands.

  Attributes:
    stops: strings at which a policy segment ends; the end-of-text ids always stop besides. Empty:
      the policy is never interrupted and writes itself what a search would find.
    tags: name -> (opening, closing), for colouring a trajectory.
    span_names: names that `spans` may give.
  """

  stops: tuple[str, ...]
  tags: Mapping[str, tuple[str, str]]
  span_names: tuple[str, ...]

  def prompt_ids(self, question: Question) -> np.ndarray:
    """int32 [n]: what the model is fed before its first own token."""

  def at_pause(self, segment: bytes, stop: str | None) -> Search | Finish | Notice:
    """What to do after a policy segment.

    Args:
      segment: bytes of the policy segment that just ended.
      stop: the name in `StopTable.names` that ended it; None if `rollout.turn_tokens` did.
    """

  def observation(self, result: SearchResult, shown: int) -> str:
    """Text to append for `result` with the first `shown` documents of each query."""

  def spans(self, segment: bytes) -> tuple[tuple[str, int, int], ...]:
    """(name, start, stop) of the named stretches of a policy segment, by start byte."""

  def answer(self, response: Response) -> str | None:
    """The final answer in what the policy wrote; None if there is none."""

  def is_well_formed(self, response: Response) -> bool:
    """Whether the response keeps the format; the text of documents changes nothing."""

  def render_step(self, step: Mapping[str, str]) -> str:
    """The policy's text for one step of a demonstration: think, then search or answer."""
