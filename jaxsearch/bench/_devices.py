"""The devices that a benchmark runs on."""

from __future__ import annotations

import contextlib

import jax

from jaxsearch.models import sizes
from jaxsearch.types import UserError


def devices(count: int) -> list[jax.Device]:
  """The first devices; a CPU is made into as many as are wanted, if JAX has not started yet.

  This goes before the number of pretended devices that XLA_FLAGS may name.

  Raises:
    UserError: there are not so many.
  """
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', max(count, jax.config.jax_num_cpu_devices))
  found = jax.local_devices()
  if len(found) < count:
    raise UserError(f'--tensor is {count}, but there are {len(found)} devices. Take fewer.')
  return found[:count]


def require_split(model: str, tensor: int) -> None:
  """Heads that cannot be split are whole on every device, but something must be split.

  Raises:
    UserError: there is no such model, or its matrices cannot be split.
  """
  hidden = sizes.find(model).hidden
  if hidden % tensor:
    raise UserError(
      f'--tensor is {tensor}; allowed: a divisor of {hidden}, the hidden size of {model}.'
    )
