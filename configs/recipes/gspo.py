"""GSPO (arXiv 2507.18071): the ratio of a whole row, four updates a batch.

jaxsearch bench recipes --only=gspo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/gspo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.policy_loss, c.algo.loss_norm = 'sequence_ratio', 'sequence'
  c.algo.clip_low, c.algo.clip_high = 3e-4, 4e-4
  c.algo.updates_per_batch = 4
  c.optimizer.learning_rate /= 2
  return c
