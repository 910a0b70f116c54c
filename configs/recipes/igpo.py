"""IGPO (arXiv 2510.14967): every search is paid for what it adds to the belief in the answer.

jaxsearch bench recipes --only=igpo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/igpo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.reward.name, c.algo.advantage = 'igpo', 'turn_returns'
  return c
