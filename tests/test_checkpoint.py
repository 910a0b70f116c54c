"""Checkpoints: whole or not there, kept by policy, equal to the bit; policy folders likewise."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsearch import checkpoint, config
from jaxsearch.models import decoder
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import UserError

SIZE = decoder.Size(vocab=300, layers=2, embed=8, heads=2, kv_heads=1, head_size=4, hidden=12)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  params: dict
  opt_state: tuple


def make_state(seed, width=3):
  params = {'a': jax.random.normal(jax.random.key(seed), (width, 2)), 'b': jnp.arange(4.0) + seed}
  return State(jnp.asarray(seed, jnp.int32), params, OPTIMIZER.init(params))


def abstract(state):
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
  return jax.tree.map(place, state)


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def open_run(folder, kept=2):
  return checkpoint.RunCheckpoints(folder, config.Schedule(checkpoints_kept=kept))


def test_comes_back_to_the_bit(tmp_path):
  run = open_run(tmp_path / 'checkpoints')
  assert run.latest is None and run.best is None
  assert run.restore_latest(abstract(make_state(0))) is None
  meta = {'position': 7, 'source': [1, {'x': None}]}
  run.save(3, make_state(3), meta, None)
  run.close()
  again = open_run(tmp_path / 'checkpoints')
  state, found = again.restore_latest(abstract(make_state(0)))
  assert_same(state, make_state(3))
  assert isinstance(state, State) and found == meta
  assert_same(again.restore_params(3, abstract(make_state(0).params)), make_state(3).params)
  again.close()


@pytest.mark.parametrize('reopened', [False, True])
def test_newest_and_best_are_kept(tmp_path, reopened):
  scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.9, 5: None, 6: 0.1, 7: None, 8: 0.3}
  run = open_run(tmp_path)
  for step, score in scores.items():
    run.save(step, make_state(step), {}, score)
    if reopened:
      run.close()
      run = open_run(tmp_path)
  run.wait()
  assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [4, 7, 8]
  assert run.latest == 8
  assert run.best == 4  # The newer of the two that scored 0.9.
  assert_same(run.restore_params(4, abstract(make_state(0).params)), make_state(4).params)
  run.close()


def test_saving_does_not_see_later_donated_updates(tmp_path):
  donate = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
  run = open_run(tmp_path)
  state = make_state(5, width=200_000)
  expected = jax.tree.map(np.array, state)
  run.save(5, state, {}, None)
  for _ in range(3):
    state = donate(state)
  jax.block_until_ready(state)
  run.wait()
  assert_same(jax.tree.map(np.array, run.restore_latest(abstract(state))[0]), expected)
  run.close()


def test_leftovers_of_a_killed_process_are_swept_away(tmp_path):
  run = open_run(tmp_path)
  run.save(1, make_state(1), {}, None)
  run.close()
  left = tmp_path / '2.orbax-checkpoint-tmp'
  (left / 'params').mkdir(parents=True)
  run = open_run(tmp_path)
  assert run.latest == 1
  run.save(2, make_state(2), {}, None)
  run.wait()
  assert not left.exists()
  assert_same(run.restore_latest(abstract(make_state(0)))[0], make_state(2))
  run.close()


@pytest.mark.parametrize('lost', ['params', '_CHECKPOINT_METADATA', 'metrics', 'rest', 'meta'])
def test_a_half_deleted_old_checkpoint_does_no_harm(tmp_path, lost):
  run = open_run(tmp_path)
  for step in (1, 2, 3):
    run.save(step, make_state(step), {}, 0.1 * step)
  run.close()
  shutil.copytree(tmp_path / '2', tmp_path / '1')  # As if killed while step 1 was removed.
  path = tmp_path / '1' / lost
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  run = open_run(tmp_path)
  assert (run.latest, run.best) == (3, 3)
  run.save(4, make_state(4), {}, None)
  run.wait()
  assert sorted(p.name for p in tmp_path.iterdir()) == ['3', '4']
  assert_same(run.restore_latest(abstract(make_state(0)))[0], make_state(4))
  run.close()


def write_forever(folder):
  """Run in its own process by the test below, until that is killed."""
  run = open_run(folder)
  step = run.latest or 0
  while True:
    step += 1
    run.save(step, make_state(step, width=50_000), {'step': step}, 1.0 / step)


@pytest.mark.slow
def test_killed_while_writing_leaves_whole_checkpoints_only(tmp_path):
  code = f'import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); '
  code += f'import test_checkpoint as t; t.write_forever({str(tmp_path)!r})'
  latest = 0
  for delay in (0.0, 0.013, 0.031):
    process = subprocess.Popen([sys.executable, '-c', code])
    deadline = time.monotonic() + 120
    target = latest + 3
    while not (tmp_path / str(target)).exists() and time.monotonic() < deadline:
      time.sleep(0.001)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = open_run(tmp_path)
    state, meta = run.restore_latest(abstract(make_state(0, width=50_000)))
    assert run.latest >= target and meta == {'step': run.latest}
    assert_same(state, make_state(run.latest, width=50_000))
    assert run.best == 1
    latest = run.latest
    run.close()


@pytest.fixture(name='tokenizer', scope='module')
def _tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer_lib.train(['the old city by the sea', 'a river and a tower'], 300, folder)
  return tokenizer_lib.load(folder)


def test_policy_folder_comes_back(tmp_path, tokenizer):
  folder = tmp_path / 'policy'
  for seed in (1, 2):  # The second replaces the first.
    params = decoder.init(jax.random.key(seed), SIZE)
    checkpoint.save_policy(folder, SIZE, params, tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ['policy']
    size, found, loaded = checkpoint.load_policy(folder, None)
    assert size == SIZE
    assert_same(found, params)
    np.testing.assert_array_equal(loaded.encode('the city'), tokenizer.encode('the city'))


def test_missing_and_broken_policy_folders_say_what_to_do(tmp_path, tokenizer):
  with pytest.raises(UserError, match='no policy folder.*warmstart'):
    checkpoint.load_policy(tmp_path / 'nothing', None)
  folder = tmp_path / 'policy'
  checkpoint.save_policy(folder, SIZE, decoder.init(jax.random.key(0), SIZE), tokenizer)
  fields = json.loads((folder / 'size.json').read_text())
  for change, message in [
    ({'family': 'decodr'}, "Did you mean 'decoder'"),
    ({'colour': 1}, 'colour'),
    ({'embed': 16}, 'params'),
  ]:
    (folder / 'size.json').write_text(json.dumps(fields | change))
    with pytest.raises(UserError, match=message):
      checkpoint.load_policy(folder, None)
  (folder / 'size.json').write_text('{')
  with pytest.raises(UserError, match='does not describe a policy'):
    checkpoint.load_policy(folder, None)
  (folder / 'size.json').write_text(json.dumps(fields))
  (folder / 'params').rename(tmp_path / 'elsewhere')
  with pytest.raises(UserError, match='no params/'):
    checkpoint.load_policy(folder, None)
