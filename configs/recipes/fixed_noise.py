"""Control of ZeroSearch's curriculum: the same noise throughout, at its mean.

From 0 to 0.5 the share of misleading answers rises to 0.194 on average.

  jaxsearch bench recipes --only=fixed_noise
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/recipes/fixed_noise',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.retrieval.backend = 'noisy'
  c.retrieval.noise_start = c.retrieval.noise_end = 0.194
  return c
