"""What every host knows of every rollout: all that estimators and selectors may read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxsearch.types import Status


@dataclasses.dataclass(frozen=True)
class Summary:
  """What every host knows of every trajectory of the step, small enough to be gathered.

  Attributes:
    position, sample: `Task.position` and `Task.sample`; they name the trajectory in its step.
    rewards: named numbers; `reward` is the one that is trained on. Empty when `is_infra`.
    status: why it ended.
    segments, owners: ids in each POLICY segment, and `Context.owners`.
    searches, length: turns, and ids of all contexts together.
    host: process that made it; a group never spans hosts.
    generated: `Trajectory.generated`.
  """

  position: int
  sample: int
  rewards: Mapping[str, float]
  status: Status
  segments: tuple[int, ...]
  owners: tuple[int, ...]
  searches: int
  length: int
  host: int = 0
  generated: int = 0

  @property
  def is_infra(self) -> bool:
    """Lost to the infrastructure: in no mean, no spread and no denominator."""
    return self.status is Status.INFRA
