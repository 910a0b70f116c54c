"""An update rule behind a global-norm clip, with a linear warm-up and a constant or cosine rate."""

from __future__ import annotations

import optax

from jaxsearch import config as config_lib
from jaxsearch import plugins
from jaxsearch.algo import rules


def schedule(config: config_lib.Optimizer) -> optax.Schedule:
  """Update number, from 0 -> learning rate."""
  peak = config.learning_rate
  if config.decay_steps:
    after = optax.cosine_decay_schedule(peak, config.decay_steps, alpha=0.1)
  else:
    after = optax.constant_schedule(peak)
  warm_up = optax.linear_schedule(0.0, peak, config.warmup_steps)
  return optax.join_schedules([warm_up, after], [config.warmup_steps])


def make(config: config_lib.Optimizer) -> optax.GradientTransformation:
  """What the learner applies to the gradient of a batch."""
  rule = plugins.function(rules, config.name)
  return optax.chain(optax.clip_by_global_norm(config.grad_clip), rule(schedule(config), config))
