"""How often a simulated retriever misleads: ZeroSearch's curriculum (arXiv 2505.04588, eq. 1)."""

from __future__ import annotations

import random

from jaxsearch import config
from jaxsearch.types import SearchRequest

_BASE = 4.0


def share(settings: config.Retrieval, progress: float) -> float:
  """Share of noisy answers when `progress` (0 to 1) of the training is done.

    start + (4^progress - 1) / 3 * (end - start)

  By hand: from 0 to 0.75, half-way, (2 - 1) / 3 * 0.75 = 0.25. Equal ends give a fixed noise. It is
  a function of the step alone, so a resumed run goes on where it was.
  """
  rise = (_BASE**progress - 1.0) / (_BASE - 1.0)
  return settings.noise_start + rise * (settings.noise_end - settings.noise_start)


def is_noisy(settings: config.Retrieval, request: SearchRequest) -> bool:
  """One draw for the whole answer, from the request's own key."""
  return random.Random(f'noise {request.key}').random() < share(settings, request.progress)
