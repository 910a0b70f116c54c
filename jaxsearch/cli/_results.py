"""The verb that looks at what runs have written: `report`."""

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
