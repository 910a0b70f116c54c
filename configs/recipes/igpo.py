"""IGPO (arXiv 2510.14967): every search is paid for what it adds to the belief in the answer.

bash launch/recipes.sh igpo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/igpo'
  c.reward.name, c.algo.advantage = 'igpo', 'turn_returns'
  return c
