"""Ablation: retrieved text is trained on as if the policy had written it.

  bash launch/ablations.sh

Each observation id gets its rollout's advantage. Nobody sampled it, so its ratio starts at 1.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/no_observation_mask',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.algo.loss_tokens = 'all'
  return c
