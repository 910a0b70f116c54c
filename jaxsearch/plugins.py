"""The only dynamic import: an option's value is the name of a file or of a function in one."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.resources
import math
import types as pytypes
from collections.abc import Callable, Iterable
from typing import Any

from jaxsearch.types import UserError


def names(folder: str) -> list[str]:
  """Plug-in files of `jaxsearch/<folder>/`, sorted; files with a leading underscore are private."""
  root = importlib.resources.files('jaxsearch').joinpath(*folder.split('.'))
  files = (entry.name for entry in root.iterdir())
  return sorted(f[:-3] for f in files if f.endswith('.py') and not f.startswith('_'))


def load(folder: str, name: str) -> pytypes.ModuleType:
  """Imports `jaxsearch.<folder>.<name>`.

  Raises:
    UserError: if there is no such file; lists those there are and the nearest one.
  """
  choices = names(folder)
  if name not in choices:
    raise UserError(_unknown(folder, name, choices))
  return importlib.import_module(f'jaxsearch.{folder}.{name}')


def function(module: pytypes.ModuleType, name: str) -> Callable[..., Any]:
  """The public function `name` that `module` itself defines.

  Raises:
    UserError: if there is none; lists those there are and the nearest one.
  """
  choices = sorted(
    key
    for key, value in vars(module).items()
    if callable(value)
    and not key.startswith('_')
    and getattr(value, '__module__', None) == module.__name__
    and isinstance(value, pytypes.FunctionType)
  )
  if name not in choices:
    raise UserError(_unknown(module.__name__.removeprefix('jaxsearch.'), name, choices))
  return getattr(module, name)


def functions(folder: str, name: str) -> list[str]:
  """Public functions of `jaxsearch.<folder>.<name>`, read without importing it: it may start JAX.

  Raises:
    UserError: as `load`.
  """
  choices = names(folder)
  if name not in choices:
    raise UserError(_unknown(folder, name, choices))
  file = importlib.resources.files('jaxsearch').joinpath(*folder.split('.'), f'{name}.py')
  found = (n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef))
  return sorted(name for name in found if not name.startswith('_'))


def weights(text: str) -> dict[str, float]:
  """'one=0.1,other=-2' -> names of functions and their weights, in order; '' -> none.

  Raises:
    UserError: for another form, a name that is there twice, a weight that is 0 or not finite.
  """
  found: dict[str, float] = {}
  for part in text.split(',') if text.strip() else []:
    name, _, value = (word.strip() for word in part.partition('='))
    try:
      weight = float(value)
    except ValueError:
      weight = 0.0
    if not name or name in found or not weight or not math.isfinite(weight):
      raise UserError(
        f'{part.strip()!r} is not NAME=WEIGHT with a finite weight other than 0, each name once.'
      )
    found[name] = weight
  return found


def nearest(name: str, choices: Iterable[str]) -> str:
  """The end of an error message: what was probably meant instead of `name`; may be empty."""
  near = difflib.get_close_matches(name, list(choices), n=1)
  return f' Did you mean {near[0]!r}?' if near else ''


def _unknown(where: str, name: str, choices: list[str]) -> str:
  return f'{where} has no {name!r}.{nearest(name, choices)} Choices: {", ".join(choices)}.'
