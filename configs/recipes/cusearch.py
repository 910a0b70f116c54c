"""CuSearch (arXiv 2605.11611): of each question the half that searched most is trained.

jaxsearch bench recipes --only=cusearch
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/cusearch') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.selector = 'deepest_half'
  return c
