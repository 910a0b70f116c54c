"""Runs the kernels that JAX ships for TPUs on a CPU: as plain XLA operations, without a TPU."""

import jax._src.literals
from jax.experimental import pallas


def interpret(patch):
  """Until `patch`, a pytest.MonkeyPatch, is undone; what was traced meanwhile stays interpreted.

  Returns:
    A list that grows with every kernel that is traced.
  """
  compiled, traced = pallas.pallas_call, []

  def interpreted(*args, **kwargs):
    traced.append(kwargs.get('name'))
    return compiled(*args, **{**kwargs, 'interpret': True})

  patch.setattr(pallas, 'pallas_call', interpreted)
  # JAX 0.10.2 interprets a masked store at a Python number only if the number has a shape.
  patch.setattr(jax._src.literals.TypedInt, 'shape', (), raising=False)
  return traced
