"""The verbs that look at what runs have written: `report` and `bench`."""

from __future__ import annotations

import os

from absl import flags

from jaxsearch.cli import _flags, _paths
from jaxsearch.types import UserError


def report(argv: list[str]) -> None:
  """Write report.html and summary.json of a run, or compare runs in one picture."""
  values = flags.FlagValues()
  run = flags.DEFINE_string('run', '', 'Run directory.', values)
  compare = flags.DEFINE_list('compare', [], 'name=DIR,name=DIR instead of --run.', values)
  kind = flags.DEFINE_enum('kind', 'bars', ['bars', 'curves'], 'What to make of them.', values)
  out = flags.DEFINE_string('out', '', 'File to write; empty: compare.png.', values)
  _flags.parse('report', values, argv)
  pairs = [item.partition('=') for item in compare.value]
  if bool(run.value) == bool(pairs) or not all(equals and folder for _, equals, folder in pairs):
    raise UserError('give either --run=DIR or --compare=NAME=DIR,NAME=DIR.')
  for folder in [run.value] if run.value else [folder for _, _, folder in pairs]:
    if not os.path.isdir(folder):
      raise UserError(f'run directory {folder!r} does not exist; name one that a run has written.')
  _paths.require_writable(
    'the folder of the report', run.value or os.path.dirname(out.value) or '.'
  )
  from jaxsearch import report as report_lib

  if run.value:
    report_lib.write(run.value)
  else:
    draw = {'bars': report_lib.bars, 'curves': report_lib.curves}[kind.value]
    draw({name: folder for name, _, folder in pairs}, out.value or 'compare.png')


def bench(argv: list[str]) -> None:
  """Compare methods on equal terms and write it down: `bench recipes`."""
  values = flags.FlagValues()
  out = flags.DEFINE_string('out', 'runs/bench', 'Folder of the runs.', values)
  table = flags.DEFINE_string('table', '', 'Empty: RECIPES.md in that folder.', values)
  picture = flags.DEFINE_string('picture', '', 'Empty: recipes.png in that folder.', values)
  size = flags.DEFINE_enum('size', 'hard', ['hard', 'hard-ci'], 'hard-ci: far smaller.', values)
  seeds = flags.DEFINE_list('seeds', ['0', '1', '2'], 'A world and a start each.', values)
  only = flags.DEFINE_list('only', [], 'Recipes; empty: all, and the controls.', values)
  minutes = flags.DEFINE_float(
    'minutes', 0.0, 'Begin no run after this long; 0: no limit.', 0.0, flag_values=values
  )
  subject, *rest = argv or ['']
  if subject in ('--help', '-h'):
    rest = argv
  elif subject != 'recipes':
    raise UserError(f'bench {subject!r}: say what to compare; allowed: recipes.')
  _flags.parse('bench', values, rest)
  if not all(seed.isdecimal() for seed in seeds.value) or not seeds.value:
    raise UserError(f'--seeds is {",".join(seeds.value)!r}; give numbers, such as 0,1,2.')
  written = [table.value or f'{out.value}/RECIPES.md', picture.value or f'{out.value}/recipes.png']
  for thing, path in zip(
    ('--out', '--table', '--picture'), (f'{out.value}/', *written), strict=True
  ):
    _paths.require_writable(f'the folder of {thing}', os.path.dirname(os.path.abspath(path)))
  from jaxsearch.bench import recipes

  recipes(
    out.value,
    *written,
    size=size.value,
    seeds=[int(seed) for seed in seeds.value],
    only=only.value,
    minutes=minutes.value,
  )
