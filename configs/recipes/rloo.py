"""RLOO (arXiv 2402.14740): each rollout against the mean of the others.

bash launch/recipes.sh rloo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/rloo'
  c.algo.advantage = 'leave_one_out'
  return c
