"""Prioritized sampling (arXiv 2501.12599): what is seldom answered is asked more often.

jaxsearch bench recipes --only=prioritized
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/recipes/prioritized',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.questions.source = 'prioritized'
  return c
