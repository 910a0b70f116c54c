"""Stratified GRPO (arXiv 2510.06214): compared with rollouts that searched as often.

jaxsearch bench recipes --only=stratified
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/stratified') -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage = 'stratified_zscore'
  return c
