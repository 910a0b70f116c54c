"""Trees: four rollouts of a question begin as one and part at their searches (arXiv 2509.21240).

  jaxsearch bench recipes --only=trees

A shared beginning is sampled and trained once; a node is worth the mean of its rollouts.
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/trees') -> config.Config:
  c = quickstart.get_config(arguments)
  c.rollout.leaves, c.algo.advantage = 4, 'tree_zscore'
  return c
