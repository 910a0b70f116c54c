"""Search-R1 (arXiv 2503.09516): exact match alone is paid, turns and observations are bounded.

Several updates a batch belong to it as well.

  jaxsearch bench recipes --only=search_r1
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/recipes/search_r1',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.reward.name = 'em'
  c.rollout.turn_tokens, c.rollout.observation_tokens = 96, 96
  c.algo.updates_per_batch = 2
  c.optimizer.learning_rate /= 2**0.5
  return c
