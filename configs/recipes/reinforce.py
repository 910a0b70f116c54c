"""REINFORCE without a baseline, as in ZeroSearch (arXiv 2505.04588).

jaxsearch bench recipes --only=reinforce
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/reinforce') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage = 'raw_reward'
  return c
