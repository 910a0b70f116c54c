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
  """The optimiser of this name behind the clip; its decay leaves norms and biases alone."""
  return optax.chain(optax.clip_by_global_norm(config.grad_clip), globals()[config.name](config))


def adamw(config: config_lib.Optimizer) -> optax.GradientTransformation:
  """AdamW (arXiv 1711.05101): decay is decoupled."""
  return optax.adamw(
    schedule(config),
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=_decayed,
  )


def muon(config: config_lib.Optimizer) -> optax.GradientTransformation:
  """Muon for the products of the layers, AdamW for the rest.

  The update of a matrix is orthogonalised (kellerjordan.github.io/posts/muon) and given the size
  that AdamW's has (RMS 0.2, arXiv 2502.16982), so that both take the same learning rate.
  """
  return optax.contrib.muon(
    schedule(config),
    beta=0.95,
    eps=config.eps,
    weight_decay=config.weight_decay,
    adam_b1=config.b1,
    adam_b2=config.b2,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,
  )


def _matrices(params: Any) -> Any:
  """For the kernel of a product, which axes are its two; heads and layers are matrices apart."""

  def axes(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    if path[-1].key != 'kernel':
      return None
    is_split = path[-2].key in ('query', 'key', 'value')
    return optax.contrib.MuonDimensionNumbers(1 if is_split else leaf.ndim - 2, leaf.ndim - 1)

  return jax.tree_util.tree_map_with_path(axes, params)


def _decayed(params: Any) -> Any:
  """True for weights of products; by name, since scanned layers stack vectors into matrices."""
  is_decayed = lambda path, _: path[-1].key not in ('scale', 'bias', 'norm')
  return jax.tree_util.tree_map_with_path(is_decayed, params)
