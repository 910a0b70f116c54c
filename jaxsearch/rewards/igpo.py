"""IGPO (arXiv 2510.14967): every search is paid for what it adds to the belief in the answer.

  p_k      exp of the mean log-probability of an accepted answer's tokens, forced behind the first k
           searches and a thought that enough is known (the best accepted answer)
  turn/k   p_(k+1) - p_k for a turn that ends in a search
           F1 of the answer, or -2 in bad format, for the last one

`reward` is what the last turn earns, for curves and for estimators that know no turns;
`algo.advantage='turn_returns'` reads the turns. A rollout whose answer is wrong is so told which of
its searches were good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards._contract import Asking, ScoreRequest
from jaxsearch.rewards._judge import judge
from jaxsearch.types import Kind, Question, Response

_THOUGHT = 'Now there is enough information to answer.'
_BAD_FORMAT = -2.0


def reward(question: Question, responses: Sequence[Response], protocol: Protocol) -> Asking:
  """Scores all rollouts of one question; asks for the log-probabilities of accepted answers."""
  asked = [
    ScoreRequest(i, turns, *_forced(protocol, gold))
    for i, response in enumerate(responses)
    for turns in range(len(response.turns) + 1)
    for gold in question.golden_answers
  ]
  beliefs: dict[tuple[int, int], float] = {}
  for request, logprobs in zip(asked, (yield asked), strict=True):
    place = (request.rollout, request.turns)
    beliefs[place] = max(beliefs.get(place, 0.0), float(np.exp(np.mean(logprobs))))
  return [
    _score(
      question,
      response,
      protocol,
      [beliefs.get((i, k), 0.0) for k in range(len(response.turns) + 1)],
    )
    for i, response in enumerate(responses)
  ]


def _score(
  question: Question, response: Response, protocol: Protocol, beliefs: Sequence[float]
) -> dict[str, float]:
  judged = judge(question, response, protocol)
  last = judged.f1 if judged.is_well_formed else _BAD_FORMAT
  row = judged.named(last)
  if judged.is_lost:
    return row
  kinds = [kind for kind, _ in response.parts]
  # Segment 0 of a context is the prompt, which is no part of the response.
  searching = [kinds[: turn.segment - 1].count(Kind.POLICY) - 1 for turn in response.turns]
  gains = dict(zip(searching, map(float, np.diff(beliefs)), strict=True))
  turns = gains | {kinds.count(Kind.POLICY) - 1: last}
  return row | {f'turn/{k}': value for k, value in turns.items()}


def _forced(protocol: Protocol, gold: str) -> tuple[str, str]:
  """What leads up to the answer, and the answer, as the policy would write them."""
  # Rendered with a mark: the answer may be spelt in a tag as well.
  text = protocol.render_step({'think': _THOUGHT, 'answer': '\0'})
  lead = text[: text.index('\0')]
  # The space belongs to the answer's first token.
  return (lead[:-1], ' ' + gold) if lead.endswith(' ') else (lead, gold)
