"""A run that is killed and started again equals the run that was not killed."""

import random
import time

import numpy as np
import pytest
import tiny

from jaxsearch import metrics

# Failures that follow from the request, so that every run meets the same ones.
FAULTS = {'latency_s': [0.0, 0.03], 'error': 0.1}
FRAGILE = {'retrieval__retries': 0, 'rollout__attempts': 2, 'schedule__infra_limit': 1.0}


def _until(process, happens, limit_s=600.0):
  """Waits for `happens()`; False if the process ended before."""
  end = time.monotonic() + limit_s
  while not happens():
    if process.poll() is not None:
      return False
    if time.monotonic() > end:
      tiny.kill(process)
      pytest.fail('nothing happened')
    time.sleep(0.005)
  return True


def _kill_at(moment, rng, process, run_dir):
  """Kills the process somewhere near a moment; False if it ended before."""
  lines = len(metrics.read(run_dir))
  partial = run_dir / 'policy.partial'
  happens, longest_s = {
    'anywhere': (lambda: True, 8.0),
    'step': (lambda: len(metrics.read(run_dir)) > lines, 0.4),
    'third step': (lambda: len(metrics.read(run_dir)) == 3, 0.4),
    # Orbax writes under a temporary name and renames.
    'save': (lambda: any((run_dir / 'checkpoints').glob('*tmp*')), 0.06),
    'export': (lambda: partial.exists(), 0.05),
  }[moment]
  if not _until(process, happens):
    return False
  time.sleep(rng.uniform(0, longest_s))
  alive = process.poll() is None
  tiny.kill(process)
  return alive


def _run_with_kills(arguments, run_dir, log, moments, seed):
  """Starts the same command again after each kill, and lets it end after the last one.

  A fast machine may be through before the last moments come; most of them must have hit.
  """
  rng = random.Random(seed)
  hits = sum(_kill_at(moment, rng, tiny.start(arguments, log), run_dir) for moment in moments)
  assert hits >= 0.8 * len(moments), f'only {hits} kills hit: {log.read_text()}'
  code, output = tiny.finish(arguments, log)
  assert code == 0, output


def _assert_equal(folder, run, whole):
  left, right = (tiny.configure(folder, name) for name in (run, whole))
  for a, b in zip(tiny.leaves(left), tiny.leaves(right), strict=True):
    np.testing.assert_array_equal(a, b)
  lines, expected = tiny.repeated(left.run_dir), tiny.repeated(right.run_dir)
  assert [line['step'] for line in lines] == list(range(len(expected)))
  assert lines == expected
  assert tiny.rollouts(left.run_dir) == tiny.rollouts(right.run_dir)
  written = [(folder / name / 'policy' / 'size.json').read_text() for name in (run, whole)]
  assert written[0] == written[1]


@pytest.mark.parametrize(
  ('moments', 'steps'),
  [
    (['third step', 'save'], 5),
    pytest.param(
      ['anywhere', 'step', 'save', 'step', 'save'] * 3 + ['save'] * 3 + ['export', 'anywhere'],
      18,
      marks=pytest.mark.slow,
    ),
  ],
  ids=['2 kills', '20 kills'],
)
def test_a_killed_run_equals_the_whole_one(tiny_folder, moments, steps):
  index = tiny.make_faulty(tiny_folder, 'fragile', **FAULTS)
  options = {**index, **FRAGILE, 'schedule__steps': steps, 'schedule__eval_every': 3}
  whole, killed = f'whole{steps}', f'killed{steps}'
  code, output = tiny.finish(
    tiny.command('train', tiny_folder, whole, **options), tiny_folder / f'{whole}.log'
  )
  assert code == 0, output
  lines = metrics.read(tiny_folder / whole)
  assert sum(line.get('episode/termination/infra', 0) for line in lines) > 0, 'too easy'
  assert any(line.get('actor/pg_loss') for line in lines), 'nothing was learnt'
  _run_with_kills(
    tiny.command('train', tiny_folder, killed, **options),
    tiny_folder / killed,
    tiny_folder / f'{killed}.log',
    moments,
    seed=steps,
  )
  _assert_equal(tiny_folder, killed, whole)


def test_a_run_goes_on_with_what_its_question_source_was_told(tiny_folder):
  """A checkpoint knows the tallies of the questions, and how many tokens were generated."""
  options = {'questions__source': 'prioritized', 'schedule__steps': 50, 'schedule__eval_every': 50}
  options['schedule__checkpoint_every'] = 1
  for run, limits in (('told', [3000]), ('told_twice', [1500, 3000])):
    for limit in limits:
      config = tiny.command('train', tiny_folder, run, schedule__generated_tokens=limit, **options)
      code, output = tiny.finish(config, tiny_folder / f'{run}.log')
      assert code == 0, output
  lines = {run: metrics.read(tiny_folder / run) for run in ('told', 'told_twice')}
  tokens = [line['progress/generated_tokens'] for line in lines['told']]
  assert tokens[-2] < 3000 <= tokens[-1] and sum(count < 1500 for count in tokens) > 1
  once, twice = (tiny.rollouts(tiny_folder / run) for run in lines)
  made = [name for name in once if name[0] == 'train']
  assert len({step for _, step, *_ in made}) == len(tokens) - 1 > 3
  assert all(once[name] == twice[name] for name in made)  # Where it paused, dev was asked besides.
  left, right = (tiny.leaves(tiny.configure(tiny_folder, run)) for run in lines)
  for a, b in zip(left, right, strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_step_that_is_run_again_gets_the_answers_of_the_first_time(tiny_folder):
  """The retriever fails once for each request: made again, the searches would have succeeded."""
  index = tiny.make_faulty(tiny_folder, 'once', error=0.3, once=True)
  options = {**index, **FRAGILE, 'rollout__attempts': 1, 'schedule__steps': 3}
  options |= {'retrieval__batch': 1}  # A failure in company is tried again alone.
  options |= {'schedule__eval_every': 3, 'schedule__checkpoint_every': 3}
  command = tiny.command('train', tiny_folder, 'again', **options)
  run_dir, log = tiny_folder / 'again', tiny_folder / 'again.log'
  process = tiny.start(command, log)
  assert _until(process, lambda: len(metrics.read(run_dir)) >= 2)
  tiny.kill(process)
  before = tiny.repeated(run_dir)
  rollouts = {key: r for key, r in tiny.rollouts(run_dir).items() if key[:2] < ('train', 2)}
  code, output = tiny.finish(command, log)
  assert code == 0, output
  assert tiny.repeated(run_dir)[: len(before)] == before
  assert rollouts.items() <= tiny.rollouts(run_dir).items()
  lines = metrics.read(run_dir)
  assert lines[0]['search/from_journal'] == lines[0]['search/count'] > 0
  assert lines[0]['episode/termination/infra'] > 0 and lines[2]['search/from_journal'] <= 16
