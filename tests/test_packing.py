"""Several contexts in one row: the same update as with one each, and nothing leaks between them."""

import dataclasses

import jax
import jax.numpy as jnp
import learner_worker as toy
import numpy as np
import pytest

from jaxsearch import config, microbatches, sharding, validation
from jaxsearch.algo import packing
from jaxsearch.learner import Learner

MESH = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
PACK, BINS, T = 3, 2, 24


def _batch(seed=0):
  """Two bins of three contexts; the second bin has room for one more and holds two."""
  batch = toy.make_batch(seed, PACK * BINS, T)
  lengths = np.array([7, 9, 8, 5, 11, 0], np.int32)
  return dataclasses.replace(batch, lengths=lengths, weights=(lengths > 0).astype(np.float32))


def _learner(pack, **algo):
  settings = toy.make_config(**algo)
  settings.learner.pack = pack
  return Learner(settings, toy.SIZE, MESH)


def _inside(batch):
  return np.arange(T) < batch.lengths[:, None]


def test_contexts_go_into_the_first_bin_with_room():
  lengths = dict(enumerate([5, 6, 3, 9, 2, 1]))
  assert microbatches.bins(lengths, room=10, most=3) == [[0, 2, 4], [1, 5], [3]]
  assert microbatches.bins({7: 5, 4: 6, 9: 3}, room=10, most=1) == [[7], [4], [9]]
  assert microbatches.bins({}, room=10, most=2) == []


def test_layout_by_hand():
  layout = packing.layout(jnp.array([2, 0, 3, 1, 1, 1]), 3, 6)
  np.testing.assert_array_equal(layout.segments_NT, [[0, 0, 2, 2, 2, 3], [0, 1, 2, 3, 3, 3]])
  np.testing.assert_array_equal(layout.positions_NT[0, :5], [0, 1, 0, 1, 2])
  np.testing.assert_array_equal(layout.positions_NT[1, :3], [0, 0, 0])
  rows = jnp.arange(36).reshape(6, 6)
  packed = layout.pack(rows)
  np.testing.assert_array_equal(packed[0, :5], [0, 1, 12, 13, 14])
  np.testing.assert_array_equal(packed[1, :3], [18, 24, 30])
  back = layout.unpack(packed)
  for i, length in enumerate([2, 0, 3, 1, 1, 1]):
    np.testing.assert_array_equal(back[i, :length], rows[i, :length])


@pytest.mark.parametrize('attention', ['xla', 'splash'])
def test_log_probabilities_are_those_of_contexts_alone(attention, request):
  if attention == 'splash':
    request.getfixturevalue('interpreted')
  batch, params = _batch(), toy.make_params()
  alone, packed = _learner(1), _learner(PACK)
  packed._attend = __import__(f'jaxsearch.models.attentions.{attention}', fromlist=['make']).make(
    MESH
  )
  one = np.asarray(alone.logprobs(params, alone.place(batch)))
  both = np.asarray(packed.logprobs(params, packed.place(batch)))
  np.testing.assert_allclose(both[_inside(batch)], one[_inside(batch)], atol=2e-6)
  assert not both[:, 0].any()


@pytest.fixture
def interpreted(monkeypatch):
  import kernels

  kernels.interpret(monkeypatch)


def test_a_context_changes_no_bit_of_its_neighbours():
  learner, params = _learner(PACK), toy.make_params()
  batch = _batch()
  tokens = batch.tokens.copy()
  tokens[1] = (tokens[1] + 1) % toy.SIZE.vocab  # In the middle of the first bin.
  clean = np.asarray(learner.logprobs(params, learner.place(batch)))
  other = dataclasses.replace(batch, tokens=tokens)
  dirty = np.asarray(learner.logprobs(params, learner.place(other)))
  inside = _inside(batch)
  neighbours = inside & (np.arange(PACK * BINS) != 1)[:, None]
  np.testing.assert_array_equal(clean[neighbours], dirty[neighbours])
  assert (clean[1, 1:9] != dirty[1, 1:9]).all()


@pytest.mark.parametrize('algo', [{}, {'policy_loss': 'sequence_ratio', 'loss_norm': 'sequence'}])
def test_an_update_is_the_same(algo):
  """With losses and norms that look at whole contexts, too."""
  found = []
  for pack in (1, PACK):
    learner = _learner(pack, **algo)
    state = learner.init_state(toy.make_params())
    batches = [learner.place(_batch(seed)) for seed in (0, 1)]
    state, metrics = learner.update(state, batches)
    found.append((jax.tree.map(np.asarray, state.params), metrics))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found[0][0], found[1][0])
  assert found[1][1] == pytest.approx(found[0][1], rel=1e-4, abs=1e-5)


def test_an_attention_without_segments_is_refused():
  settings = toy.make_config()
  settings.learner.pack = 2
  for attention, refused in (('cudnn', True), ('splash', False), ('xla', False)):
    settings.policy.attention = attention
    found = '\n'.join(validation.problems(settings, 'bench'))
    assert ("learner.pack is 2; allowed: 1, with policy.attention='cudnn'" in found) == refused
