"""CuSearch (arXiv 2605.11611): of each question the half that searched most is trained.

bash launch/recipes.sh cusearch
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/cusearch'
  c.algo.selector = 'deepest_half'
  return c
