"""REINFORCE++ with the group's mean as baseline (arXiv 2501.03262), as in R1-Searcher.

Advantages are whitened over all tokens of the batch and the KL to the start is in the reward.

  jaxsearch bench recipes --only=reinforce_plus_plus
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/recipes/reinforce_plus_plus',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage, c.algo.whiten, c.algo.loss_norm = 'group_mean', True, 'sequence'
  c.algo.kl_coef, c.algo.kl, c.algo.kl_place = 1e-4, 'k1', 'reward'
  return c
