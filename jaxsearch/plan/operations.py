"""Floating-point operations of a traced program: its products, counted from their shapes.

The compiler's own analysis counts the body of a loop once and a kernel not at all. Here loops of
known length are multiplied out, kernels have a formula each, and what runs on every device of a
mesh axis by hand (`shard_map`) counts once for each. Sums, exponentials and the like are left out:
beside products they are few, and no peak is published for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jaxsearch.types import UserError

# What `shard_map` calls its axes, in JAX 0.10 and before.
_MANUAL = ('newly_manual_axes', 'manual_axes')


def count(jaxpr: core.Jaxpr, seen: int) -> float:
  """Operations of all devices together; a multiplication and an addition are two.

  A loop whose length is known only when it runs (decode) counts as one round.

  Args:
    jaxpr: of `jax.stages.Traced.jaxpr`.
    seen: cache entries that a token looks at where a kernel reads a cache: it is not in the shapes.

  Raises:
    UserError: the program has a kernel without a formula.
  """
  return sum(_equation(equation, seen) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn, seen: int) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    return _product(equation)
  if name == 'pallas_call':
    return _kernel(equation, seen)
  inner = [count(jaxpr, seen) for jaxpr in _inside(params)]
  if name == 'cond':
    return max(inner)
  times = 1
  if name == 'scan':
    times = params['length']
  if name == 'shard_map':
    axes = next(params[key] for key in _MANUAL if key in params)
    times = math.prod(params['mesh'].shape[axis] for axis in axes)
  return times * sum(inner)


def _inside(params: dict[str, Any]) -> list[core.Jaxpr]:
  """Programs among the parameters of an equation."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      item = getattr(item, 'jaxpr', item)
      if isinstance(item, core.Jaxpr):
        found.append(item)
  return found


def _product(equation: core.JaxprEqn) -> float:
  (summed, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in summed)


def _kernel(equation: core.JaxprEqn, seen: int) -> float:
  name = _name(equation)
  for part, formula in _KERNELS.items():
    if part in name:
      return formula(equation, seen)
  raise UserError(
    f'the operations of the kernel {name!r} cannot be counted; known: {", ".join(_KERNELS)}. Give '
    'it a formula in jaxsearch/plan/operations.py.'
  )


def _name(equation: core.JaxprEqn) -> str:
  params = equation.params
  return str(params.get('name') or params.get('name_and_src_info') or params['jaxpr'].debug_info)


def _splash(products: int) -> Callable[[core.JaxprEqn, int], float]:
  """Of causal splash attention with so many products over the blocks up to the diagonal."""

  def operations(equation: core.JaxprEqn, seen: int) -> float:
    del seen
    *rows, T, H = next(v.aval.shape for v in equation.invars if _is_float(v) and v.aval.ndim >= 3)
    blocks = equation.params['grid_mapping'].grid[-1]
    entries = T * (T + T // blocks) / 2
    return 2.0 * products * math.prod(rows) * entries * H

  return operations


def _paged(equation: core.JaxprEqn, seen: int) -> float:
  """Of ragged paged attention: queries [N,Q,H] that look at `seen` keys and values each."""
  shape = next(v.aval.shape for v in equation.invars if _is_float(v) and v.aval.ndim == 3)
  return 4.0 * math.prod(shape) * seen


def _is_float(variable: core.Var) -> bool:
  return jnp.issubdtype(variable.aval.dtype, jnp.floating)


# A part of a kernel's name -> its formula. Of splash attention: scores and values; with one more
# for the gradient of the queries, and two more for those of keys and values.
_KERNELS = {
  'splash_mha_fwd': _splash(2),
  'splash_mha_dq': _splash(3),
  'splash_mha_dkv': _splash(4),
  'ragged_paged_attention': _paged,
}
