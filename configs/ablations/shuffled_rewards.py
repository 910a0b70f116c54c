"""Control: the rewards of each step are dealt out anew among its rollouts.

  bash launch/ablations.sh

The same numbers with the same spread, but unrelated to what was done: shows how much training
moves the policy for reasons other than its reward.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/shuffled_rewards',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.advantage = 'shuffled_group_zscore'
  return c
