"""Stratified GRPO (arXiv 2510.06214): compared with rollouts that searched as often.

bash launch/recipes.sh stratified
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  c = quickstart.get_config(arguments)
  c.run_dir = 'runs/recipes/stratified'
  c.algo.advantage = 'stratified_zscore'
  return c
