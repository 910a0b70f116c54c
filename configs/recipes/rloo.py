"""RLOO (arXiv 2402.14740): each rollout against the mean of the others.

jaxsearch bench recipes --only=rloo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/rloo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage = 'leave_one_out'
  return c
