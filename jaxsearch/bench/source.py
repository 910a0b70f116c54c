"""What a recipe is: its source, the fields it changes, and how many lines of code that took."""

from __future__ import annotations

import ast
import dataclasses
import importlib.resources
import pathlib
import re
from collections.abc import Sequence

from jaxsearch import config as config_lib
from jaxsearch import fields

# Fields whose value names a file, or a function of a file.
_FILES = {
  'questions.source': 'sources/{}.py',
  'protocol.name': 'protocols/{}.py',
  'retrieval.backend': 'retrieval/backends/{}.py',
  'reward.name': 'rewards/{}.py',
}
_FUNCTIONS = {
  'algo.advantage': 'algo/advantages.py',
  'algo.kl': 'algo/kl.py',
  'algo.loss_norm': 'algo/norms.py',
  'algo.policy_loss': 'algo/losses.py',
  'algo.selector': 'algo/selectors.py',
  'algo.terms': 'algo/terms.py',
  'optimizer.name': 'algo/rules.py',
}
# Where a run lies, and what its phases share out.
_PLACES = ('run_dir', 'policy.path', 'policy.reference', 'schedule.', 'warmstart.', 'seed')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One row of the table of recipes.

  Attributes:
    title: first line of its file.
    changes: 'field=value', in the order of the configuration.
    lines: code of its file without imports and of the plug-ins that it names.
  """

  title: str
  changes: tuple[str, ...]
  lines: int


def has_own_start(config: config_lib.Config) -> bool:
  """Whether a recipe is trained from a policy that its own warm start makes."""
  return pathlib.Path(config.policy.path) == pathlib.Path(config.run_dir, 'warmstart', 'policy')


def read(file: str, phases: Sequence[config_lib.Config], plain: config_lib.Config) -> Recipe:
  """Describes the recipe of a configuration file by the difference of its phases from `plain`."""
  text = pathlib.Path(file).read_text(encoding='utf-8')
  before = dict(fields.flatten(plain))
  changed = dict.fromkeys(
    (name, value)
    for config in phases
    for name, value in fields.flatten(config)
    if value != before[name] and not name.startswith(_PLACES)
  )
  title = (ast.get_docstring(ast.parse(text)) or pathlib.Path(file).stem).partition('\n')[0]
  title = re.sub(r'arXiv (\d{4}\.\d{5})', r'[arXiv \1](https://arxiv.org/abs/\1)', title)
  return Recipe(
    title=title,
    changes=tuple(f'{name}={_short(value)}' for name, value in changed),
    lines=_lines(text) + sum(_plugin_lines(name, str(value)) for name, value in changed),
  )


def _short(value: object) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def _plugin_lines(field: str, name: str) -> int:
  root = importlib.resources.files('jaxsearch')
  if field in _FILES:
    return _lines(root.joinpath(_FILES[field].format(name)).read_text(encoding='utf-8'))
  if field in _FUNCTIONS:
    text = root.joinpath(_FUNCTIONS[field]).read_text(encoding='utf-8')
    # Terms are several: name=weight,name=weight.
    return sum(_lines(text, of=one.partition('=')[0].strip()) for one in name.split(','))
  return 0


def _lines(text: str, of: str = '') -> int:
  """Lines of code: no blank ones, comments, docstrings or imports; `of` one function or all."""
  tree = ast.parse(text)
  nodes = [n for n in tree.body if not of or getattr(n, 'name', '') == of]
  nodes = [n for n in nodes if not isinstance(n, ast.Import | ast.ImportFrom)]
  said: set[int] = set()
  for node in nodes:
    for part in ast.walk(node):
      if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
        said |= set(range(part.lineno, part.end_lineno + 1))  # A docstring.
  lines = text.splitlines()
  numbers = {n for node in nodes for n in range(node.lineno, node.end_lineno + 1)} - said
  return sum(bool(lines[n - 1].strip()) and lines[n - 1].strip()[0] != '#' for n in numbers)
