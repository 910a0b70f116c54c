"""What a reward file offers; the underscore only keeps this file out of the plug-ins.

A reward file defines `reward(question, responses, protocol)`, which sees all rollouts of one
question and returns a row of named numbers for each: `reward` is trained on, `turn/k` is that of
the policy's k-th segment for estimators that read turns, the others are metrics. A rollout that
the infrastructure lost has 0 everywhere.

It may be a generator that yields lists of `ScoreRequest` and is sent, for each request, the
log-probabilities of its text's tokens, float32 [n]; the rows are then what it returns. The engine
answers the requests of all questions together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np

Rows = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
  """What a reward may ask the engine: how likely is a text behind a part of a rollout?

  Attributes:
    rollout: index among the responses that the reward was given.
    turns: searches that stay, with what they found; all that comes later is cut off.
    lead: forced as well, but not scored.
    text: what is scored.
    observation: stands in the place of what the last kept search found; None: what it found.
  """

  rollout: int
  turns: int
  lead: str
  text: str
  observation: str | None = None


Asking = Generator[list[ScoreRequest], list[np.ndarray], Rows]
