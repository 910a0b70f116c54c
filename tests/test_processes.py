"""Two processes that train together equal one; what one of them loses changes nothing else."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

from jaxsearch import metrics, trajectories

LAUNCHER = pathlib.Path(__file__).parents[1] / 'launch' / 'local_processes.sh'
# Two hosts add up in another order than one.
TOLERANCE = {'rtol': 2e-3, 'atol': 2e-5}


def _together(arguments, count=2):
  """Runs a verb in processes that train together; the exit code and what they printed."""
  done = subprocess.run(
    [str(LAUNCHER), str(count), *arguments],
    env={**tiny.variables(), 'PYTHON': sys.executable},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout + done.stderr


def _alone(folder, run, **options):
  code, output = tiny.finish(tiny.command('train', folder, run, **options), folder / f'{run}.log')
  assert code == 0, output


def _train_rollouts(folder, run):
  return {key: r for key, r in tiny.rollouts(folder / run).items() if key[0] == 'train'}


def _assert_close(left, right):
  for a, b in zip(left, right, strict=True):
    np.testing.assert_allclose(a, b, **TOLERANCE)


OPTIONS = {
  'schedule__steps': 3,
  'schedule__eval_every': 2,
  'schedule__checkpoint_every': 3,
  'optimizer__eps': 1e-4,
}


@pytest.fixture(scope='module')
def two(tiny_folder):
  """A run of two processes, from its beginning to its end; its folder."""
  code, output = _together(tiny.command('train', tiny_folder, 'two', **OPTIONS))
  assert code == 0, output
  return tiny_folder / 'two'


@pytest.mark.slow
def test_two_processes_equal_one(tiny_folder, two):
  _alone(tiny_folder, 'one', **OPTIONS)
  assert tiny.rollouts(tiny_folder / 'one') == tiny.rollouts(two)
  one, both = (tiny.leaves(tiny.configure(tiny_folder, run)) for run in ('one', 'two'))
  start = tiny.start_leaves(tiny.configure(tiny_folder, 'one'))
  assert max(np.abs(a - b).max() for a, b in zip(one, start)) > 1e-3, 'nothing was learnt'
  _assert_close(both, one)
  for line, expected in zip(*(tiny.repeated(tiny_folder / run) for run in ('two', 'one'))):
    assert line.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(line[name], value, err_msg=name, rtol=1e-2, atol=1e-4)
  # The policy that was exported can be used by one process.
  assert (two / 'policy' / 'params').is_dir()
  # The same command again finds a run that is done.
  before = (two / 'metrics.jsonl').read_bytes()
  code, output = _together(tiny.command('train', tiny_folder, 'two', **OPTIONS))
  assert code == 0 and (two / 'metrics.jsonl').read_bytes() == before, output


@pytest.mark.slow
def test_hosts_that_are_told_to_stop_save_and_go_on(tiny_folder, two, tmp_path):
  """A signal to one stops both; resumed, they end as if nothing had happened."""
  (tmp_path / 'jax-0.13.1.dist-info').mkdir()
  (tmp_path / 'jax-0.13.1.dist-info' / 'METADATA').write_text('Name: jax\nVersion: 0.13.1\n')
  run_dir = tiny_folder / 'both_stopped'
  logs = [tiny_folder / f'both_stopped{host}.log' for host in range(2)]
  command = tiny.command('train', tiny_folder, 'both_stopped', **OPTIONS)
  processes = tiny.start_together(command, logs, PYTHONPATH=f'{tmp_path}:{tiny.ROOT}')
  while not metrics.read(run_dir):
    assert processes[0].poll() is None, logs[0].read_text()
    time.sleep(0.005)
  processes[1].send_signal(signal.SIGTERM)
  assert [process.wait(60) for process in processes] == [75, 75], logs[1].read_text()
  step = len(metrics.read(run_dir))
  assert step < 3 and (run_dir / 'checkpoints' / str(step)).is_dir()
  for log in logs:
    (*_, told) = log.read_text().strip().splitlines()
    assert f'jaxsearch train: told to stop (SIGTERM); step {step} is saved in {run_dir}' in told
  # These versions had not been tried together: one line, by host 0.
  warnings = [log.read_text().count('jax 0.13.1 with flax') for log in logs]
  assert warnings == [1, 0]
  processes = tiny.start_together(command, logs)
  assert [process.wait() for process in processes] == [0, 0], logs[0].read_text()
  for a, b in zip(
    *(tiny.leaves(tiny.configure(tiny_folder, run)) for run in ('both_stopped', 'two')), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert tiny.repeated(run_dir) == tiny.repeated(two)
  assert tiny.rollouts(run_dir) == tiny.rollouts(two)


@pytest.mark.slow
def test_a_host_that_loses_everything_changes_only_its_rows(tiny_folder):
  options = {'schedule__steps': 1, 'optimizer__eps': 1e-4, 'rollout__temperature': 0.5}
  # A gradient to be seen from every row that counts, whatever its reward.
  options |= {'algo__entropy_coef': 100.0, 'optimizer__grad_clip': 1e6}
  _alone(tiny_folder, 'half', **options, algo__questions_per_step=2)
  dead = tiny.make_faulty(tiny_folder, 'dead', error=1.0)
  fragile = {'retrieval__retries': 0, 'rollout__attempts': 1, 'schedule__infra_limit': 1.0}
  port = tiny.free_port()
  processes = [
    tiny.start(
      tiny.command('train', tiny_folder, 'lame', **{**options, **fragile, **index}),
      tiny_folder / f'lame{host}.log',
      JAXSEARCH_COORDINATOR=f'localhost:{port}',
      JAXSEARCH_NUM_PROCESSES='2',
      JAXSEARCH_PROCESS_ID=str(host),
    )
    for host, index in enumerate(({}, dead))
  ]
  for host, process in enumerate(processes):
    assert process.wait() == 0, (tiny_folder / f'lame{host}.log').read_text()
  lame, half = (_train_rollouts(tiny_folder, run) for run in ('lame', 'half'))
  assert {key: record for key, record in lame.items() if key in half} == half
  lost = [record['status'] for key, record in lame.items() if key not in half]
  assert len(lost) == len(half) and set(lost) == {'infra'}
  _assert_close(*(tiny.leaves(tiny.configure(tiny_folder, run)) for run in ('lame', 'half')))
  (line, _) = metrics.read(tiny_folder / 'lame')
  assert line['episode/termination/infra'] == 0.5 and line['search/outcome/error'] >= len(lost)
  (expected, _) = metrics.read(tiny_folder / 'half')
  assert expected['actor/grad_norm'] > 0.1
  for name in ('reward/mean', 'length/total_mean', 'search/calls_mean'):
    assert line[name] == pytest.approx(expected[name]), name
  for name in ('actor/grad_norm', 'actor/entropy', 'actor/pg_loss'):
    assert line[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name


def test_bad_input_ends_every_process_with_code_two(tiny_folder):
  code, output = _together(tiny.command('train', tiny_folder, 'bad', mesh__data=3))
  assert code == 2 and 'does not divide the 2 devices' in output and 'Traceback' not in output
  assert not (tiny_folder / 'bad').exists()


@pytest.mark.slow
def test_together_they_evaluate_every_question_once(tiny_folder):
  shutil.copy(tiny_folder / 'train.jsonl', tiny_folder / 'eleven.jsonl')
  command = tiny.command('eval', tiny_folder, 'shared', questions__dev=tiny_folder / 'eleven.jsonl')
  code, output = _together(command)
  assert code == 0, output
  code, output = tiny.finish(
    [*command, f'--out={tiny_folder}/alone_eval'], tiny_folder / 'alone.log'
  )
  assert code == 0, output
  shared, alone = (
    trajectories.read(os.path.join(tiny_folder, folder, 'trajectories.jsonl'))
    for folder in ('shared/eval', 'alone_eval')
  )
  for record in (*shared, *alone):
    for turn in record['turns']:
      del turn['latency_s']
  assert len(shared) == 11 and shared == alone


@pytest.mark.slow
def test_a_warm_start_of_two_processes_equals_one(tiny_folder):
  options = {'warmstart__steps': 6, 'warmstart__optimizer__eps': 1e-4}
  code, output = tiny.finish(
    tiny.command('warmstart', tiny_folder, 'warm1', **options), tiny_folder / 'warm1.log'
  )
  assert code == 0, output
  code, output = _together(tiny.command('warmstart', tiny_folder, 'warm2', **options))
  assert code == 0, output
  one, two = (
    json.loads((tiny_folder / run / 'warmstart' / 'losses.json').read_text())
    for run in ('warm1', 'warm2')
  )
  assert len(one) == 6 and one[-1] < one[0]
  np.testing.assert_allclose(two, one, rtol=1e-3)
  assert (tiny_folder / 'warm2' / 'warmstart' / 'policy' / 'params').is_dir()
