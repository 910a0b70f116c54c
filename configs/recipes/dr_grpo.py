"""Dr. GRPO (arXiv 2503.20783): no spread and no length in a denominator.

jaxsearch bench recipes --only=dr_grpo
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/dr_grpo') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage, c.algo.loss_norm = 'group_mean', 'constant'
  # Divided by the longest policy text instead of the batch's own tokens, steps are smaller; so is
  # what counts as a large gradient.
  c.optimizer.grad_clip /= 3
  return c
