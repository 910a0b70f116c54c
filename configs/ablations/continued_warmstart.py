"""Baseline: the warm start goes on for the time that reinforcement learning takes.

  bash launch/ablations.sh

The script sets `warmstart.steps` to what fits into the training time of the full run on the same
machine. The learning rate stays where the warm start's had come to.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/continued_warmstart',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.warmstart.policy = c.policy.path
  c.warmstart.optimizer.learning_rate /= 10
  c.warmstart.optimizer.warmup_steps = c.warmstart.optimizer.decay_steps = 0
  return c
