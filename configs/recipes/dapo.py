"""DAPO (arXiv 2503.14476): asks further questions until enough of them teach something.

A higher upper bound of the ratio and the mean over tokens belong to it; here one update a batch
leaves the ratio at 1, and the mean over tokens is the default.

  bash launch/recipes.sh dapo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/dapo'
  c.algo.rounds, c.algo.selector = 3, 'if_unequal'
  c.algo.clip_high = 0.28
  # Rounds replace steps: about as many rollouts as the quick start makes.
  c.schedule.steps = max(2, c.schedule.steps // 2)
  c.optimizer.decay_steps = c.schedule.steps
  return c
