"""The versions of JAX and Flax that this package is tested with."""

from __future__ import annotations

import importlib.metadata
import sys

# Minor versions of (jax, flax), as CI and releases ran them; setup.py allows no others by itself.
TESTED = (('0.10', '0.12'), ('0.11', '0.12'))


def warn_if_untested() -> None:
  """One line on standard error if the installed JAX and Flax are no pair of `TESTED`.

  Neither is imported: a pair that does not fit may fail there, and then this line says why.
  """
  jax, flax = (importlib.metadata.version(name) for name in ('jax', 'flax'))
  pair = tuple('.'.join(version.split('.')[:2]) for version in (jax, flax))
  if pair not in TESTED:
    tested = ', '.join(f'jax {jax} with flax {flax}' for jax, flax in TESTED)
    print(
      f'jax {jax} with flax {flax} is an untested pair (tested: {tested}). If anything fails, '
      'install a tested one first.',
      file=sys.stderr,
    )
