"""One run in this process: what a step does, what it compiles, and what stops it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxsearch import metrics, trainer, trajectories
from jaxsearch.training_run import Run
from jaxsearch.types import Kind, Status, UserError

COMPILED = '/jax/core/compile/backend_compile_duration'


@pytest.fixture(scope='module')
def run(tiny_folder):
  """A run after its warm-up."""
  config = tiny.configure(tiny_folder, 'here')
  with Run(config) as opened:
    yield opened


@pytest.fixture(scope='module')
def steps(run, tiny_folder):
  """Two steps of the loop's own body: (compile events, trajectories, summaries, figures) each."""
  events = []

  def listen(name, seconds, **_):
    if name == COMPILED:
      events.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.jit(lambda x: x + 41)(np.ones(3))
  assert events, 'the listener hears nothing'
  found = []
  for step in (0, 1):
    events.clear()
    clock = metrics.Clock()
    run.load_weights(clock)
    figures = run.evaluate(step, clock)
    run.save(step, figures['val/em'], clock)
    # The checkpoint is still on its way to disk: a kill now would repeat the step before it.
    if step:
      assert any(tiny_folder.glob(f'here/journal/*/train/*{step - 1}.jsonl'))
    done, summaries = run.collect(step, clock)
    advantages = run.estimate(summaries, step)
    updates = run.batch(done, summaries, advantages)
    figures |= run.figures(done, summaries, advantages) | run.update(updates, clock)
    found.append((list(events), done, summaries, figures))
  return found


def test_nothing_compiles_after_the_warm_up(steps):
  for compiled, *_ in steps:
    assert not compiled
  lengths = [[s.length for s in summaries] for _, _, summaries, _ in steps]
  assert lengths[0] != lengths[1], 'the second step shows the same shapes as the first'


def test_learner_and_sampler_agree(steps):
  for *_, figures in steps:
    assert 0 < figures['mismatch/logp_absdiff_max'] < 1e-4
    assert figures['actor/ratio_mean'] == pytest.approx(1.0, abs=1e-4)


def test_a_step_asks_its_own_questions_in_groups(steps, run):
  for step, (_, done, *_) in enumerate(steps):
    names = [(t.task.step, t.task.position, t.task.sample) for t in done]
    assert names == [(step, 4 * step + i, sample) for i in range(4) for sample in range(4)]
    for i in range(4):
      group = done[4 * i : 4 * i + 4]
      assert len({t.task.question.id for t in group}) == 1
      ids = {tuple(t.contexts[0].ids.tolist()) for t in done}
      assert len(ids) > 4, 'samples do not differ'
  assert {t.task.question.id for t in steps[0][1]} != {t.task.question.id for t in steps[1][1]}


def test_ids_trained_on_are_the_ids_sampled(steps, run):
  _, done, summaries, _ = steps[1]
  ((trained, counted),) = run.batch(done, summaries, run.estimate(summaries, 1))
  rows = {}
  for batch in (*trained, *counted):
    for i, length in enumerate(np.asarray(batch.lengths)):
      mask = np.asarray(batch.loss_mask)[i, :length]
      rows.setdefault(tuple(np.asarray(batch.tokens)[i, :length].tolist()), []).append(mask)
  rows.pop((), None)
  assert sum(map(len, rows.values())) == len(done)
  for t in done:
    (context,) = t.contexts
    sampled = np.concatenate([np.full(len(s.ids), s.kind is Kind.POLICY) for s in context.segments])
    for mask in rows[tuple(context.ids.tolist())]:
      np.testing.assert_array_equal(mask, sampled)


def test_a_broken_index_is_told_before_anything_is_written(tiny_folder, tmp_path):
  for name in ('retrieval', 'eval_retrieval'):
    config = tiny.configure(tiny_folder, 'none')
    setattr(config, name, dataclasses.replace(config.retrieval, index=str(tmp_path)))
    with pytest.raises(UserError, match='index'):
      Run(config)
    assert not (tiny_folder / 'none').exists()


@pytest.mark.slow
def test_a_dead_retriever_stops_the_run_and_a_mended_one_lets_it_go_on(tiny_folder):
  options = {'schedule__steps': 2, 'schedule__eval_every': 2, 'rollout__attempts': 2}
  options |= tiny.make_faulty(tiny_folder, 'broken', crash=1.0)
  options |= {'retrieval__retries': 0, 'retrieval__deadline_s': 20.0}
  command = tiny.command('train', tiny_folder, 'stopped', **options)
  log = tiny_folder / 'stopped.log'
  code, output = tiny.finish(command, log)
  assert code == 2 and 'Traceback' not in output
  message = output[output.index('jaxsearch train: ') :]
  for part in (
    'the retriever lost',
    'of step 0',
    'schedule.infra_limit=0.05',
    'mend the retriever',
  ):
    assert part in message
  (tiny_folder / 'broken' / 'faults.json').write_text('{}')
  code, output = tiny.finish(command, log)
  assert code == 0, output
  lines = metrics.read(tiny_folder / 'stopped')
  assert [line['step'] for line in lines] == [0, 1, 2]
  assert all(line.get('episode/termination/infra', 0) == 0 for line in lines)


@pytest.mark.slow
def test_latency_changes_nothing(tiny_folder):
  """Promise 8: rows park for up to half a second and come back in another order."""
  for run, latency_s in (('quick', [0.0, 0.0]), ('late', [0.0, 0.5])):
    config = tiny.configure(tiny_folder, run)
    faulty = tiny.make_faulty(tiny_folder, f'{run}_index', latency_s=latency_s)
    config.retrieval.backend, config.retrieval.index = 'faulty', str(faulty['retrieval__index'])
    config.retrieval.batch, config.retrieval.workers = 2, 2
    config.schedule.steps = config.schedule.eval_every = 2
    trainer.train(config)
  quick, late = (tiny.configure(tiny_folder, run) for run in ('quick', 'late'))
  assert tiny.rollouts(quick.run_dir) == tiny.rollouts(late.run_dir)
  assert tiny.repeated(quick.run_dir) == tiny.repeated(late.run_dir)
  for a, b in zip(tiny.leaves(quick), tiny.leaves(late), strict=True):
    np.testing.assert_array_equal(a, b)
  waited = [line.get('search/latency_s/max', 0) for line in metrics.read(late.run_dir)]
  assert max(waited) > 0.2


def test_lost_rollouts_train_nothing(tiny_folder):
  """Below the limit they are counted, and neither means nor denominators know them."""
  config = tiny.configure(tiny_folder, 'fewer')
  faulty = tiny.make_faulty(tiny_folder, 'fewer_index', error=0.3)
  config.retrieval.backend, config.retrieval.index = 'faulty', str(faulty['retrieval__index'])
  config.retrieval.retries, config.rollout.attempts = 0, 1
  config.schedule.infra_limit = 1.0
  with Run(config) as run:
    clock = metrics.Clock()
    run.load_weights(clock)
    done = run.rollout(run.intake.take(0), clock)
    lost = [t for t in done if t.status is Status.INFRA]
    assert 0 < len(lost) < len(done)
    summaries = run.gather(done)
    advantages = run.estimate(summaries, 0)
    ((trained, counted),) = run.batch(done, summaries, advantages)
    figures = run.figures(done, summaries, advantages)
  rows = sum(int((np.asarray(b.lengths) > 0).sum()) for b in (*trained, *counted))
  assert rows == len(done) - len(lost)
  assert figures['episode/termination/infra'] == len(lost) / len(done)
  assert figures['reward/mean'] == pytest.approx(
    np.mean([t.rewards['reward'] for t in done if t.status is not Status.INFRA])
  )


@pytest.mark.slow
def test_a_complete_run_only_exports_again_and_another_configuration_is_refused(tiny_folder):
  log = tiny_folder / 'complete.log'
  options = {'schedule__steps': 1, 'schedule__eval_every': 1}
  command = tiny.command('train', tiny_folder, 'complete', **options)
  folder = tiny_folder / 'complete'
  assert tiny.finish(command, log)[0] == 0
  lines = (folder / 'metrics.jsonl').read_bytes()
  written = {path: path.stat().st_mtime_ns for path in (folder / 'checkpoints').rglob('*')}
  shutil.rmtree(folder / 'policy')
  code, output = tiny.finish(command, log)
  assert code == 0, output
  assert (folder / 'policy' / 'params').is_dir() and (folder / 'policy' / 'size.json').is_file()
  assert (folder / 'metrics.jsonl').read_bytes() == lines
  assert {p: p.stat().st_mtime_ns for p in (folder / 'checkpoints').rglob('*')} == written
  other = {'algo__clip_low': 0.1, 'optimizer__learning_rate': 0.5, 'schedule__infra_limit': 0.5}
  config = (folder / 'config.json').read_bytes()
  code, output = tiny.finish(
    tiny.command('train', tiny_folder, 'complete', **options, **other), log
  )
  message = output[output.index('jaxsearch train: ') :]
  assert code == 2 and 'algo.clip_low was 0.2 and is 0.1' in message
  assert 'optimizer.learning_rate was 0.003 and is 0.5' in message and 'schedule' not in message
  assert (folder / 'config.json').read_bytes() == config
  # More steps are no other configuration: the run goes on.
  code, output = tiny.finish(
    tiny.command('train', tiny_folder, 'complete', **{**options, 'schedule__steps': 2}), log
  )
  assert code == 0, output
  steps = [json.loads(line)['step'] for line in (folder / 'metrics.jsonl').open()]
  assert steps == [0, 1, 2]
  assert len(trajectories.read(folder / 'trajectories' / 'train_1.jsonl')) == 16


@pytest.mark.slow
def test_questions_are_asked_until_enough_of_them_teach_something(tiny_folder):
  config = tiny.configure(tiny_folder, 'rounds')
  config.algo.rounds, config.algo.selector = 3, 'if_unequal'
  with Run(config) as run:
    clock = metrics.Clock()
    run.load_weights(clock)
    done, summaries = run.collect(0, clock)
    rewards = {}
    for s in summaries:
      rewards.setdefault(s.position, set()).add(s.rewards['reward'])
    assert sorted(rewards) == list(range(len(rewards))) and len(rewards) % 4 == 0
    unequal = {position for position, found in rewards.items() if len(found) > 1}
    assert len(rewards) == 12 or len(unequal) >= 4
    # The round before was not enough.
    assert len([p for p in unequal if p < len(rewards) - 4]) < 4
    advantages = run.estimate(summaries, 0)
    assert {s.position for s, a in zip(summaries, advantages) if a is not None} == unequal
    more, _ = run.collect(1, clock)
    assert min(t.task.position for t in more) == len(rewards)
    assert len(done) == 4 * len(rewards)
