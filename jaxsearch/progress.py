"""How far a training run has come and when it ends: what a checkpoint knows beside the learner."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from jaxsearch import config as config_lib


@dataclasses.dataclass
class Progress:
  """Counts on every host alike, and the schedule that bounds them.

  Attributes:
    schedule: of the configuration.
    questions: taken from the source so far.
    tokens: sampled in training so far, those of shared beginnings once, those of attempts that
      the infrastructure lost not at all.
  """

  schedule: config_lib.Schedule
  questions: int = 0
  tokens: int = 0

  def steps(self, start: int) -> Iterator[int]:
    """The steps from `start` to the last one, which is known once it begins."""
    for step in itertools.count(start):
      is_last = self.is_last(step)
      yield step
      if is_last:
        return

  def is_last(self, step: int) -> bool:
    """Whether `step`, which is about to begin, makes no update any more."""
    limit = self.schedule.generated_tokens
    return step >= self.schedule.steps or bool(limit and self.tokens >= limit)

  def share(self, step: int) -> float:
    """Of the training that is done before `step`: 0 to below 1."""
    limit = self.schedule.generated_tokens
    return max(step / self.schedule.steps, self.tokens / limit if limit else 0.0)

  def evaluates(self, step: int) -> bool:
    """Whether dev is scored before the update of `step`."""
    return step % self.schedule.eval_every == 0 or self.is_last(step)

  def figures(self) -> dict[str, float]:
    """What a step that begins now has behind it."""
    return {'progress/questions': self.questions, 'progress/generated_tokens': self.tokens}

  def meta(self) -> dict[str, int]:
    """What a checkpoint keeps and `Progress(schedule, **meta)` takes."""
    return {'questions': self.questions, 'tokens': self.tokens}
