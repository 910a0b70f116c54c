"""Recipes of several phases: one command, each phase from the policy of the one before."""

import json
import pathlib
import time

import numpy as np
import pytest
import tiny

from jaxsearch import cli, config
from jaxsearch.types import UserError

RECIPE = """
import sys
sys.path.insert(0, {tests!r})
import tiny

PHASES = ('first', 'second')

def get_config(phase):
  c = tiny.configure({folder!r}, '{run}/' + phase)
  c.schedule.steps, c.schedule.eval_every = 2, 2
  if phase == 'first':
    c.reward.name = 'r1_searcher_stage1'
  else:
    c.policy.path = {folder!r} + '/{run}/first/policy'
    c.algo.advantage, c.algo.whiten = 'group_mean', True
    c.algo.updates_per_batch = 2
  return c
"""


def write(folder, run):
  path = pathlib.Path(folder) / f'{run}.py'
  path.write_text(
    RECIPE.format(tests=str(pathlib.Path(__file__).parent), folder=str(folder), run=run)
  )
  return path


def steps(folder, phase):
  path = folder / phase / 'metrics.jsonl'
  return [json.loads(line)['step'] for line in path.open()] if path.exists() else []


def test_a_file_with_phases_stands_for_them_in_order(tmp_path):
  path = write(tmp_path, 'r')
  assert config.phases(str(path)) == [f'{path}:first', f'{path}:second']
  assert config.phases(f'{path}:second') == [f'{path}:second']
  (tmp_path / 'plain.py').write_text('x = 1\n')
  assert config.phases(str(tmp_path / 'plain.py')) == [str(tmp_path / 'plain.py')]
  with pytest.raises(UserError, match='not a file'):
    config.phases('nowhere.py')
  (tmp_path / 'plain.py').write_text("PHASES = 'first'\n")
  with pytest.raises(UserError, match="PHASES of .* is 'first'; allowed"):
    config.phases(str(tmp_path / 'plain.py'))


def test_all_phases_are_checked_before_the_first_begins(tmp_path, capsys):
  path = write(tmp_path, 'r')
  assert cli.main(['train', f'--config={path}', '--config.algo.kl=k9']) == 2
  assert 'algo.kl' in capsys.readouterr().err and not (tmp_path / 'r').exists()
  # The policy of the first phase need not be there for the second; other files must.
  assert cli.main(['train', f'--config={path}:second']) == 2
  assert 'policy.path' in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_in_its_second_phase_goes_on_there(tiny_folder):
  paths = {run: write(tiny_folder, run) for run in ('whole', 'killed')}
  code, output = tiny.finish(['train', f'--config={paths["whole"]}'], tiny_folder / 'whole.log')
  assert code == 0, output
  assert (
    steps(tiny_folder / 'whole', 'first') == steps(tiny_folder / 'whole', 'second') == [0, 1, 2]
  )

  command = ['train', f'--config={paths["killed"]}']
  process = tiny.start(command, tiny_folder / 'killed.log')
  while not steps(tiny_folder / 'killed', 'second') and process.poll() is None:
    time.sleep(0.05)
  tiny.kill(process)
  first = (tiny_folder / 'killed/first/metrics.jsonl').read_bytes()
  code, output = tiny.finish(command, tiny_folder / 'killed.log')
  assert code == 0, output
  assert (tiny_folder / 'killed/first/metrics.jsonl').read_bytes() == first
  assert steps(tiny_folder / 'killed', 'second') == [0, 1, 2]
  whole, killed = (
    tiny.leaves(tiny.configure(tiny_folder, f'{run}/second')) for run in ('whole', 'killed')
  )
  assert all(np.array_equal(a, b) for a, b in zip(whole, killed, strict=True))
  start = tiny.leaves(tiny.configure(tiny_folder, 'whole/first'))
  assert max(np.abs(a - b).max() for a, b in zip(whole, start)) > 1e-4
