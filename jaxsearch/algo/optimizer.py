"""AdamW behind a global-norm clip, with a linear warm-up and a constant or cosine rate."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxsearch import config as config_lib


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
  """AdamW (arXiv 1711.05101): decay is decoupled and leaves norms and biases alone."""
  return optax.chain(
    optax.clip_by_global_norm(config.grad_clip),
    optax.adamw(
      schedule(config),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=_decayed,
    ),
  )


def _decayed(params: Any) -> Any:
  """True for weights of products; by name, since scanned layers stack vectors into matrices."""
  is_decayed = lambda path, _: path[-1].key not in ('scale', 'bias', 'norm')
  return jax.tree_util.tree_map_with_path(is_decayed, params)
