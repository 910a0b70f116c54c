"""The policy at work: weights from the learner, rollouts, rewards; and the way of the weights."""

import dataclasses
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import policies
import pytest

from jaxsearch import config, sharding
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout import sync
from jaxsearch.rollout.actor import Actor
from jaxsearch.types import Question, UserError

RIGHT = [b'<think>a</think>', b'<answer>\\boxed{birch}</answer>', policies.EOS]
WRONG = [b'<think>b</think>', b'<answer>\\boxed{', b'dune}</answer>', policies.EOS]


@pytest.fixture(scope='module')
def pool():
  with Pool(config.Retrieval(backend='none')) as pool:
    yield pool


@pytest.fixture(scope='module')
def actor(tmp_path_factory):
  folder = tmp_path_factory.mktemp('actor')
  policy = policies.scripted_policy(folder, {'@': RIGHT, '#': WRONG, '!': [b'no', policies.EOS]})
  return policies.make_actor(policy, folder, slots=4)


def test_each_question_is_scored_by_its_own_answers(actor, pool):
  """Groups of one text and of different golden answers, in the order of the tasks."""
  tasks = policies.make_tasks(['so @', 'so #', 'so !', 'so @ ?'], samples=3)
  other = Question('other', 'so @ ?', ('dune',))
  tasks[9:] = [dataclasses.replace(task, question=other) for task in tasks[9:]]
  done = actor.rollout(tasks, pool=pool, top_k=1, temperature=0.0)
  assert [t.task for t in done] == tasks
  assert [t.rewards['em'] for t in done] == [1] * 3 + [0] * 9
  assert [t.rewards['format'] for t in done] == [1] * 6 + [0] * 3 + [1] * 3


def test_two_copies_of_the_sampling_weights_never_exist(tmp_path, monkeypatch):
  """Those of before are gone when new ones are brought over."""
  tokenizer, size, params = policies.random_policy(tmp_path)
  actor = policies.make_actor((tokenizer, size, params), tmp_path)
  old = weakref.ref(actor._engine._params['layers'][0]['mlp']['up']['kernel'])
  bring, gone = actor._sync, []
  monkeypatch.setattr(actor, '_sync', lambda params: gone.append(old() is None) or bring(params))
  actor.load(params)
  assert gone == [True]


def test_new_weights_are_used_from_the_next_rollout_on(tmp_path, pool):
  """The prompt's keys and values under the old weights are used no more."""
  tokenizer, size, params = policies.random_policy(tmp_path)
  actor = policies.make_actor((tokenizer, size, params), tmp_path)
  tasks = policies.make_tasks(['amber?', 'so'], samples=3)
  before = policies.bits(actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0))
  other = decoder.init(jax.random.key(99), size)
  actor.load(other)
  # Backwards: the first row would find its prompt in a slot that is not its own.
  after = policies.bits(actor.rollout(tasks[::-1], pool=pool, top_k=1, temperature=1.0))
  fresh = policies.make_actor((tokenizer, size, other), tmp_path)
  assert policies.bits(fresh.rollout(tasks, pool=pool, top_k=1, temperature=1.0)) == after
  actor.load(params)
  again = policies.bits(actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0))
  assert before == again
  assert all(before[name] != after[name] for name in before)


def test_the_sampler_computes_what_the_learner_computes_in_bfloat16(tmp_path, pool):
  """Matrices are cast alike, and scales of norms are float32 on both sides."""
  tokenizer, size, params = policies.random_policy(tmp_path)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype(np.float32), params)
  actor = policies.make_actor((tokenizer, size, params), tmp_path, dtype='bfloat16')
  hidden = jax.jit(decoder.hidden, static_argnames=('size', 'dtype', 'scan'))
  gaps = []
  for t in actor.rollout(policies.make_tasks(['so', 'kelp'], 4), pool=pool, top_k=1, temperature=1):
    (context,) = t.contexts
    ids = np.zeros((1, 96), np.int32)
    ids[0, : context.length] = context.ids
    x_BTD = hidden(params, size, ids, dtype=jnp.bfloat16, scan=False)
    w_VD = decoder.unembedding(params, size).astype(jnp.bfloat16)
    logits = jnp.einsum('td,vd->tv', x_BTD[0], w_VD, preferred_element_type=jnp.float32)
    expected = jax.nn.log_softmax(logits)[np.arange(context.length - 1), context.ids[1:]]
    mask = context.sampled_mask[1:]
    gaps.append(np.abs(context.logprobs[1:] - expected)[mask])
  # Rounding of activations remains: one bit of bfloat16 is 0.4 %.
  assert np.concatenate(gaps).mean() < 0.01


def test_synced_weights_are_the_learners(tmp_path):
  """Layer by layer, value by value."""
  _, size, params = policies.random_policy(tmp_path, attention_bias=True, tied_embeddings=False)
  mesh = sharding.make_mesh(config.Mesh())
  local = sync.sampling_mesh(mesh, 1)
  synced = sync.WeightSync(size, mesh, local, jnp.float32)(params)
  expected = decoder.unstack(params, size)
  assert jax.tree.structure(synced) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(synced), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(a, b)
    assert a.sharding.mesh == local


def test_a_tensor_size_that_does_not_divide_the_host_is_refused():
  mesh = sharding.make_mesh(config.Mesh())
  with pytest.raises(UserError, match='mesh.sample_tensor=3 does not divide the 1 devices'):
    sync.sampling_mesh(mesh, 3)


def test_a_span_that_the_protocol_does_not_know_is_refused(tmp_path):
  tokenizer, size, _ = policies.random_policy(tmp_path)
  settings = config.Config(rollout=config.Rollout(**policies.ROLLOUT))
  settings.algo.untrained_span = 'quary'
  with pytest.raises(UserError, match="untrained_span is 'quary'.* Did you mean 'query'"):
    Actor(settings, size, tokenizer, sharding.make_mesh(config.Mesh()))
