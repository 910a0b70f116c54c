"""REINFORCE without a baseline, as in ZeroSearch (arXiv 2505.04588).

bash launch/recipes.sh reinforce
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/reinforce'
  c.algo.advantage = 'raw_reward'
  return c
