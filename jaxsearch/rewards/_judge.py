"""What every reward says beside the number that is trained on."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._contract import Rows
from jaxsearch.text import answers
from jaxsearch.types import Kind, Question, Response, Status

_FOREIGN = re.compile('[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]')


@dataclasses.dataclass(frozen=True)
class Judgement:
  """One response, its answer and measures, whatever a reward makes of them.

  Attributes:
    question, response, protocol: what is judged, and who reads it.
    answer: None if there is none, or the infrastructure broke the rollout off.
    em, cover_em, f1: of the answer, see `text.answers`.
    is_well_formed: by the protocol; False if the infrastructure broke the rollout off.
  """

  question: Question
  response: Response
  protocol: Protocol
  answer: str | None
  em: float
  cover_em: float
  f1: float
  is_well_formed: bool

  @property
  def is_lost(self) -> bool:
    """The infrastructure broke the rollout off: every reward is 0."""
    return self.response.status is Status.INFRA

  @property
  def has_searched(self) -> bool:
    """Whether the retriever was asked at least once."""
    return any(turn.queries for turn in self.response.turns)

  @property
  def has_foreign_script(self) -> bool:
    """Whether the policy itself wrote a Chinese, Japanese or Korean character."""
    return bool(_FOREIGN.search(self.written))

  @property
  def written(self) -> str:
    """All that the policy wrote."""
    return ' '.join(text for kind, text in self.response.parts if kind is Kind.POLICY)

  def named(self, reward: float) -> dict[str, float]:
    """The numbers of a rollout: `reward`, 0 for a lost one, and the measures."""
    return {
      'reward': 0.0 if self.is_lost else float(reward),
      'em': self.em,
      'cover_em': self.cover_em,
      'f1': self.f1,
      'format': float(self.is_well_formed),
    }


def judge(question: Question, response: Response, protocol: Protocol) -> Judgement:
  """Reads the answer from what the policy wrote."""
  is_lost = response.status is Status.INFRA
  answer = None if is_lost else protocol.answer(response)
  golds = question.golden_answers
  return Judgement(
    question=question,
    response=response,
    protocol=protocol,
    answer=answer,
    em=answers.exact_match(answer, golds),
    cover_em=answers.cover_match(answer, golds),
    f1=answers.f1(answer, golds),
    is_well_formed=not is_lost and protocol.is_well_formed(response),
  )


def one_by_one(score: Callable[[Judgement], float]) -> Callable[..., Rows]:
  """A reward that looks at each rollout alone: `score` says the number that is trained on."""

  @functools.wraps(score)
  def reward(question: Question, responses: Sequence[Response], protocol: Protocol) -> Rows:
    judged = (judge(question, response, protocol) for response in responses)
    return [one.named(score(one)) for one in judged]

  return reward
