"""What is asked next: a question source, told on every host alike, and this host's share of it."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from jaxsearch import batching, plugins
from jaxsearch import config as config_lib
from jaxsearch import questions as questions_lib
from jaxsearch.algo.summary import Summary
from jaxsearch.progress import Progress
from jaxsearch.sources._contract import Result
from jaxsearch.types import Question, Task


class Intake:
  """The source that the configuration names, as far as a run has come."""

  def __init__(
    self,
    config: config_lib.Config,
    place: batching.Place,
    questions: Sequence[Question],
    progress: Progress,
    state: Any,
  ):
    """Opens the source; `state` is None for a new run."""
    self._algo, self._place, self._progress = config.algo, place, progress
    source = plugins.load('sources', config.questions.source)
    self._source = source.open(questions, config.seed, state)
    self._names: dict[int, str] = {}

  def take(self, step: int) -> list[Task]:
    """This host's next rollouts to make: its stretch of the next questions, a group of each."""
    first, count = self._progress.questions, self._algo.questions_per_step
    asked = list(enumerate(self._source.take(first, count), start=first))
    self._names = {position: question.id for position, question in asked}
    share = self._progress.share(step)
    self._progress.questions += count
    stretch = count // self._place.hosts
    mine = asked[self._place.host * stretch : (self._place.host + 1) * stretch]
    return [
      Task(question, position, sample, step, share)
      for position, question in mine
      for sample in range(self._algo.group_size)
    ]

  def feedback(self, summaries: Sequence[Summary]) -> None:
    """Tells the source what became of the questions that were taken last.

    Args:
      summaries: of every host's rollouts of them.
    """
    counted = [s for s in summaries if not s.is_infra]
    rollouts = collections.Counter(s.position for s in counted)
    right = collections.Counter(s.position for s in counted if s.rewards.get('em', 0.0) > 0)
    self._source.feedback(
      [Result(name, right[place], rollouts[place]) for place, name in self._names.items()]
    )

  def state(self) -> Any:
    """What a checkpoint keeps of the source."""
    return self._source.state()


def read(config: config_lib.Config) -> tuple[list[Question], list[Question]]:
  """(training questions, those of dev that are used); raises UserError as `questions.read`."""
  dev = questions_lib.read(config.questions.dev)
  return (
    questions_lib.read(config.questions.train),
    dev[: config.schedule.eval_questions or len(dev)],
  )
