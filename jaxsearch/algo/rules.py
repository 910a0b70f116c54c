"""Update rules, chosen by name (`optimizer.name`): gradient and rate -> step."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxsearch import config as config_lib


def adamw(rate: optax.Schedule, config: config_lib.Optimizer) -> optax.GradientTransformation:
  """AdamW (arXiv 1711.05101): decay is decoupled, and leaves norms and biases alone."""
  return optax.adamw(
    rate,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=_decayed,
  )


def muon(rate: optax.Schedule, config: config_lib.Optimizer) -> optax.GradientTransformation:
  """Muon (kellerjordan.github.io/posts/muon) for the products inside layers, NAdamW for the rest.

  The momentum of a matrix is orthogonalised, so that directions which few tokens ask for are
  learnt as fast as common ones. Steps have the size of AdamW's (RMS 0.2, arXiv 2502.16982), so that
  one rate serves both. Decay is on those products only.
  """
  return optax.contrib.muon(
    rate,
    eps=config.eps,
    weight_decay=config.weight_decay,
    adam_b1=config.b1,
    adam_b2=config.b2,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,
  )


def _decayed(params: Any) -> Any:
  """True for weights of products; by name, since scanned layers stack vectors into matrices."""
  is_decayed = lambda path, _: path[-1].key not in ('scale', 'bias', 'norm')
  return jax.tree_util.tree_map_with_path(is_decayed, params)


def _matrices(params: Any) -> Any:
  """Which two axes of a kernel are its matrix; layers and heads are matrices of their own."""

  def axes(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    if path[-1].key != 'kernel':
      return None
    rows = 1 if path[-2].key in ('query', 'key', 'value') else leaf.ndim - 2
    return optax.contrib.MuonDimensionNumbers(rows, leaf.ndim - 1)

  return jax.tree_util.tree_map_with_path(axes, params)
