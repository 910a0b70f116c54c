"""`jaxsearch bench step`: the loop of training with random weights."""

import json

import pytest

from jaxsearch import cli

SMALL = ['--model=tiny', '--rows=3', '--length=64', '--trajectories=2', '--slots=2', '--steps=3']
SMALL += ['--tokens_per_microbatch=128']


@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--lora_rank=2', '--moments_on_host']])
def test_nothing_compiles_after_the_first_step(flags, tmp_path, capsys):
  path = tmp_path / 'found.json'
  assert cli.main(['bench', 'step', *SMALL, *flags, f'--json={path}']) == 0
  found = json.loads(path.read_text())
  assert found['compiles_after_first'] == 0 and len(found['steps']) == 3
  assert all(step[part] > 0 for step in found['steps'] for part in ('sync', 'rollout', 'update'))
  # By hand: 3 rows of 64 tokens, forward and twice as much backward, or once if weights are frozen;
  # the policy of `tiny`.
  layer = 32 * 16 * 2 * (4 + 2) + 3 * 32 * 64
  forward = 2 * 2 * layer * 192 + 2 * 300 * 32 * 192 + 4 * 2 * 4 * 16 * 3 * (64 * 65 // 2)
  assert found['update_operations'] == (2 if flags else 3) * forward
  assert 'programs compiled after the first step' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flag, says', [('--remat=some', '--remat'), ('--model=huge', "'huge'"), ('--rows=0', '--rows')]
)
def test_what_cannot_work_is_refused(flag, says, capsys):
  assert cli.main(['bench', 'step', flag]) == 2
  assert says in capsys.readouterr().err
