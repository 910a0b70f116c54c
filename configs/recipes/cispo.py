"""CISPO (arXiv 2506.13585): clipped weights instead of clipped gradients, four updates a batch.

jaxsearch bench recipes --only=cispo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/cispo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.policy_loss = 'clipped_weight'
  c.algo.clip_low, c.algo.clip_high = 0.99, 0.28
  c.algo.updates_per_batch = 4
  c.optimizer.learning_rate /= 2
  return c
