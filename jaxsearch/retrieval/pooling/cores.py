"""Which cores the processes of a pool run on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from jaxsearch.retrieval.pooling.stages import Stage
from jaxsearch.types import UserError


def share(text: str, stages: Sequence[Stage]) -> list[list[tuple[int, ...]]]:
  """The cores of every process of every stage: one for a worker that searches, the rest for models.

  Args:
    text: such as '8-15,20'; '' leaves all processes on all cores.
    stages: of the pool.

  Raises:
    UserError: if the text is no list of cores of this host, or has too few.
  """
  if not text:
    return [[()] * stage.processes for stage in stages]
  cores = _parse(text)
  workers = sum(stage.processes for stage in stages if not stage.uses_jax)
  models = sum(stage.processes for stage in stages if stage.uses_jax)
  if len(cores) < workers + models:
    raise UserError(
      f'retrieval.cores is {text!r}, {len(cores)} cores for {workers + models} processes; each '
      'needs one at least. Name more cores, or lower retrieval.workers or encoders.'
    )
  singles, rest = iter(cores[:workers]), cores[workers:]
  shares = iter([tuple(rest[i::models]) for i in range(models)])
  return [
    [next(shares) if stage.uses_jax else (next(singles),) for _ in range(stage.processes)]
    for stage in stages
  ]


def _parse(text: str) -> list[int]:
  cores: list[int] = []
  for part in text.split(','):
    match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
    if not match or int(match[2] or match[1]) < int(match[1]):
      raise UserError(f'retrieval.cores is {text!r}; allowed: numbers and ranges, such as 8-15,20.')
    cores += range(int(match[1]), int(match[2] or match[1]) + 1)
  missing = sorted(set(cores) - os.sched_getaffinity(0))
  if missing or len(set(cores)) < len(cores):
    found = ', '.join(map(str, sorted(os.sched_getaffinity(0))))
    raise UserError(
      f'retrieval.cores is {text!r}; this process may use the cores {found}, each named once.'
    )
  return cores
