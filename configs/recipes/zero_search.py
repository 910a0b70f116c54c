"""ZeroSearch's curriculum (arXiv 2505.04588): ever more answers of the retriever mislead.

Documents of the index play the simulator's; dev and test keep the real retriever.

  jaxsearch bench recipes --only=zero_search
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/recipes/zero_search',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.retrieval.backend = 'noisy'
  c.retrieval.noise_start, c.retrieval.noise_end = 0.0, 0.5
  return c
