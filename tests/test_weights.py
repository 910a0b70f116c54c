"""What is trained and what is frozen: adapters, references, and memory of the host."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import learner_worker as toy
import numpy as np
import pytest
import reference
import tiny

from jaxsearch import checkpoint, config, sharding
from jaxsearch.learner import Learner
from jaxsearch.models import decoder, lora

MESH = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
SIZE = dataclasses.replace(toy.SIZE, attention_bias=True)


def _settings(rank=0, **learner):
  settings = toy.make_config()
  settings.policy.lora_rank, settings.policy.lora_alpha = rank, 8.0
  settings.learner = dataclasses.replace(settings.learner, **learner)
  return settings


def _start():
  params = decoder.init(jax.random.key(0), SIZE)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype(np.float32), params)


def _updated(settings, updates=3):
  start = _start()
  learner = Learner(settings, SIZE, MESH, start)
  state = learner.init_state(start)
  batches = [learner.place(toy.make_batch(seed, 4, 12)) for seed in (0, 1)]
  metrics = {}
  for _ in range(updates):
    state, metrics = learner.update(state, batches)
  return learner, state, metrics, batches[0]


# --- Adapters -------------------------------------------------------------------------------------


def test_new_adapters_change_nothing_and_trained_ones_do():
  learner, state, _, batch = _updated(_settings(rank=2), updates=0)
  plain = Learner(_settings(), SIZE, MESH)
  expected = np.asarray(plain.logprobs(_start(), batch))
  np.testing.assert_allclose(learner.logprobs(state.params, batch), expected, atol=2e-6)
  # Without adapters it is the base, which the KL is measured to.
  np.testing.assert_allclose(learner.logprobs({}, batch), expected, atol=2e-6)
  learner, state, _, batch = _updated(_settings(rank=2))
  assert np.abs(np.asarray(learner.logprobs(state.params, batch)) - expected).max() > 1e-2


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_merged_weights_are_the_same_policy(dtype):
  """What the sampler gets is what the learner trains; all seven products have an adapter."""
  settings = _settings(rank=2)
  settings.policy.dtype = dtype
  learner, state, _, batch = _updated(settings)
  merged = learner.weights.merged(state.params)
  assert {p.dtype for p in jax.tree.leaves(merged['layers']['mlp'])} == {jnp.dtype(dtype)}
  plain = _settings()
  plain.policy.dtype = dtype
  found = Learner(plain, SIZE, MESH).logprobs(merged, batch)
  # No bit of rounding apart: in bfloat16 that would be 0.01.
  np.testing.assert_allclose(found, learner.logprobs(state.params, batch), atol=1e-5)
  merged = learner.weights.merged(state.params, jnp.float32)
  moved = jax.tree_util.tree_map_with_path(
    lambda path, a, b: (path[-1].key == 'kernel') == bool(jnp.any(a != b.astype(jnp.float32))),
    merged,
    learner.weights.base,
  )
  assert all(jax.tree.leaves(moved['layers']))
  assert not jnp.any(merged['embed'] != learner.weights.base['embed'].astype(jnp.float32))


def test_a_merged_kernel_by_hand():
  params = {'out': {'kernel': jnp.ones((1, 2, 1, 2)), 'lora_a': jnp.array([[[[1.0]], [[2.0]]]])}}
  params['out']['lora_b'] = jnp.array([[[3.0, 5.0]]])
  merged = lora.merge(params, 0.5, jnp.float32)['out']['kernel']
  np.testing.assert_allclose(merged[0, :, 0], [[2.5, 3.5], [4.0, 6.0]])


def test_only_adapters_have_gradients_and_moments():
  learner, state, _, _ = _updated(_settings(rank=2))
  names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(state.params)}
  assert names == {'lora_a', 'lora_b'}
  trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) <= 2 * trained + 8
  jax.tree.map(np.testing.assert_array_equal, learner.weights.base, _start())


@pytest.mark.slow
def test_a_run_with_adapters_learns_and_hands_them_over(tiny_folder):
  """Gap between sampler and learner, exported policy and adapters; a resumed run is the same."""
  overrides = {'policy__lora_rank': 4, 'algo__kl_coef': 0.01}
  overrides |= {'schedule__steps': 3, 'schedule__export': 'newest'}
  arguments = tiny.command('train', tiny_folder, 'lora', **overrides)
  code, output = tiny.finish(arguments, tiny_folder / 'lora.log')
  assert code == 0, output
  lines = [line for line in tiny.repeated(tiny_folder / 'lora') if 'actor/pg_loss' in line]
  assert all(line['mismatch/logp_absdiff_max'] < 1e-4 for line in lines)
  size, policy, _ = checkpoint.load_policy(tiny_folder / 'lora' / 'policy', None)
  _, start, _ = checkpoint.load_policy(tiny_folder / 'start' / 'warmstart' / 'policy', None)
  kernel = lambda p: np.asarray(p['layers']['mlp']['up']['kernel'])
  assert size.layers == 2 and np.abs(kernel(policy) - kernel(start)).max() > 1e-4
  described = json.loads((tiny_folder / 'lora' / 'adapters' / 'adapter_config.json').read_text())
  assert described['r'] == 4 and len(described['target_modules']) == 7
  # Stopped after two steps and gone on with, the third is the same.
  for steps in (2, 3):
    overrides['schedule__steps'] = steps
    arguments = tiny.command('train', tiny_folder, 'lora_again', **overrides)
    code, output = tiny.finish(arguments, tiny_folder / 'lora_again.log')
    assert code == 0, output
  assert tiny.repeated(tiny_folder / 'lora_again')[-1] == tiny.repeated(tiny_folder / 'lora')[-1]


def test_peft_reads_our_adapters_as_we_do(tmp_path):
  peft = pytest.importorskip('peft')
  torch, theirs = reference.write('qwen2', tmp_path / 'base')
  size, params, _ = checkpoint.load_policy(tmp_path / 'base', None)
  adapters = lora.init(jax.random.key(0), params, 3)
  rng = np.random.default_rng(0)
  adapters = jax.tree.map(lambda a: a + rng.normal(0, 0.1, a.shape).astype(np.float32), adapters)
  policy = config.Policy(path=str(tmp_path / 'base'), lora_rank=3, lora_alpha=12.0)
  checkpoint.save_adapters(tmp_path / 'adapters', size, adapters, policy)
  adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapters')
  tokens = np.random.default_rng(0).integers(0, size.vocab, (2, 20)).astype(np.int32)
  with torch.no_grad():
    expected = adapted(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  merged = lora.merge(lora.combine(params, adapters), 12.0 / 3, jnp.float32)
  x_BTD = decoder.hidden(merged, size, tokens, dtype=jnp.float32, scan=True)
  logits = x_BTD @ decoder.unembedding(merged, size).T
  np.testing.assert_allclose(logits, expected, atol=3e-5 * np.abs(expected).max())


# --- Where things lie -----------------------------------------------------------------------------


def test_moments_on_the_host_are_the_same_moments(tmp_path):
  learner, state, metrics, _ = _updated(_settings(moments_on_host=True))
  kinds = lambda tree: {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree) if leaf.ndim}
  assert kinds(state.opt_state) == {'pinned_host'} and kinds(state.params) == {'device'}
  _, expected, expected_metrics, _ = _updated(_settings())
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected.opt_state)
  jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
  assert metrics == expected_metrics
  # A checkpoint comes back to where it lay.
  checkpoints = checkpoint.RunCheckpoints(tmp_path, config.Schedule())
  checkpoints.save(3, state, {}, None)
  checkpoints.wait()
  restored, _ = checkpoints.restore_latest(learner.abstract_state())
  checkpoints.close()
  assert kinds(restored.opt_state) == {'pinned_host'}
  jax.tree.map(np.testing.assert_array_equal, restored.opt_state, state.opt_state)


@pytest.mark.parametrize('on_host', [False, True])
def test_a_reference_in_the_compute_dtype_loses_nothing(on_host):
  settings = _settings(reference_on_host=on_host)
  settings.policy.dtype = 'bfloat16'
  start = _start()
  learner = Learner(settings, SIZE, MESH)
  frozen = learner.weights.load_reference(start)
  kernel = frozen['layers']['attention']['query']['kernel']
  assert kernel.dtype == jnp.bfloat16 and frozen['norm'].dtype == jnp.float32
  assert kernel.sharding.memory_kind == ('pinned_host' if on_host else 'device')
  batch = learner.place(toy.make_batch(0, 4, 12))
  (prepared,) = learner.prepare(start, frozen, [batch])
  np.testing.assert_array_equal(prepared.reference_logprobs, learner.logprobs(start, batch))
