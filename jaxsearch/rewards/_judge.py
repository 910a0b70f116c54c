"""What every reward says beside the number that is trained on."""

from __future__ import annotations

import dataclasses
import re

from jaxsearch.protocols._contract import Protocol
from jaxsearch.text import answers
from jaxsearch.types import Kind, Question, Response, Status

_FOREIGN = re.compile('[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]')


@dataclasses.dataclass(frozen=True)
class Judgement:
  """The answer of one response and its measures, whatever a reward makes of them.

  Attributes:
    answer: None if there is none, or the infrastructure broke the rollout off.
    em, cover_em, f1: of the answer, see `text.answers`.
    is_well_formed: by the protocol; False if the infrastructure broke the rollout off.
    is_lost: the infrastructure did; every reward is 0.
  """

  answer: str | None
  em: float
  cover_em: float
  f1: float
  is_well_formed: bool
  is_lost: bool

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
    answer=answer,
    em=answers.exact_match(answer, golds),
    cover_em=answers.cover_match(answer, golds),
    f1=answers.f1(answer, golds),
    is_well_formed=not is_lost and protocol.is_well_formed(response),
    is_lost=is_lost,
  )


def has_foreign_script(response: Response) -> bool:
  """Whether the policy itself wrote a Chinese, Japanese or Korean character."""
  return any(kind is Kind.POLICY and _FOREIGN.search(text) for kind, text in response.parts)
