"""A configuration as a list of dotted names: `algo.group_size`, `schedule.steps`, …"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsearch import config as config_lib
from jaxsearch import plugins


def walk(section: object, prefix: str = '') -> Iterator[tuple[str, object]]:
  """(dotted name, value) of every attribute, sections opened."""
  for name, value in vars(section).items():
    if dataclasses.is_dataclass(value):
      yield from walk(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def flatten(config: config_lib.Config) -> list[tuple[str, object]]:
  """(dotted name, value) of every declared field, sections opened."""
  declared = {name for name, _ in walk(config_lib.Config())}
  return [(name, value) for name, value in walk(config) if name in declared]


def unknown(name: str, shown: str) -> list[str]:
  """A line that refuses the dotted `name` and tells the nearest; nothing if it is a field."""
  names = [field_name for field_name, _ in walk(config_lib.Config())]
  if name in names:
    return []
  return [f'{shown}: the configuration has no field {name!r}.{plugins.nearest(name, names)}']


def differences(
  before: Mapping[str, Any], config: config_lib.Config, except_for: tuple[str, ...]
) -> list[str]:
  """Lines 'name was … and is …' for the fields that a run's written configuration had otherwise.

  Args:
    before: the configuration as JSON; a field that it lacks is younger and had its default.
    config: the present one.
    except_for: beginnings of names that may differ.
  """
  defaults, now = (
    json.loads(json.dumps(dataclasses.asdict(c))) for c in (config_lib.Config(), config)
  )
  found = []
  for name, _ in flatten(config):
    new = _lookup(now, name, None)
    old = _lookup(before, name, _lookup(defaults, name, None))
    if old != new and not name.startswith(except_for):
      found.append(f'{name} was {old!r} and is {new!r}')
  return found


def _lookup(fields: Any, name: str, missing: Any) -> Any:
  for part in name.split('.'):
    if not isinstance(fields, dict) or part not in fields:
      return missing
    fields = fields[part]
  return fields
