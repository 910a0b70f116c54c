"""Over-turn masking (Mini-o3, arXiv 2509.07969): what ran out of budget is not trained.

jaxsearch bench recipes --only=over_turn
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/over_turn') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.selector = 'unless_capped'
  return c
