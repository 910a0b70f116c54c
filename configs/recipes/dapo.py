"""DAPO (arXiv 2503.14476): asks further questions until enough of them teach something.

A higher upper bound of the ratio and the mean over tokens belong to it; here one update a batch
leaves the ratio at 1, and the mean over tokens is the default.

  jaxsearch bench recipes --only=dapo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/dapo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.rounds, c.algo.selector = 4, 'if_unequal'
  # Rounds make up for it.
  c.algo.questions_per_step //= 2
  c.algo.clip_high = 0.28
  return c
