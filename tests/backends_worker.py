"""Attention back-ends on four devices against one; run by test_backends.py.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python backends_worker.py FOLDER
"""

import pathlib
import sys

import engine_worker
import jax
import jax.numpy as jnp
import kernels
import learner_worker
import numpy as np
import policies
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch import config, plugins, sharding
from jaxsearch.learner import Learner
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.caches import cudnn, dense, ragged

TOLERANCE = 2e-5
SIZE = decoder.Size(vocab=8, layers=1, embed=8, heads=4, kv_heads=2, head_size=16, hidden=8)
S, R, C, PAGE, PAGES = 3, 2, 8, 8, 4


def check_learner(traced):
  """One update on rows and heads split in two: the parameters that the plain attention gives."""
  results = {}
  for name in plugins.names('models.attentions'):
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=2))
    settings = learner_worker.make_config()
    settings.policy.attention = name
    before = len(traced)
    learner = Learner(settings, learner_worker.SIZE, mesh)
    state = learner.init_state(learner_worker.make_params())
    batch = learner.place(learner_worker.make_batch(0, 4, 12))
    state, metrics = learner.update(state, [batch])
    results[name] = jax.tree.map(np.asarray, (state.params, metrics))
    assert (len(traced) > before) == (name == 'splash'), f'{name} traced {traced[before:]}'
  for name, found in results.items():
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE, err_msg=name)  # noqa: B023
    jax.tree.map(close, found, results['xla'])


def _empty(caches, replicas):
  rollout = config.Rollout(slots=S)
  if caches is not ragged:
    return caches.init(SIZE, rollout, replicas, PAGE * PAGES, jnp.float32)
  return ragged.Cache((jnp.zeros((replicas * (1 + S * PAGES), PAGE, 2 * SIZE.kv_heads, 128)),))


def _program(caches):
  def program(cache, chunk, token, slots_R, start_R, count_R, length_S):
    layers = caches.Layers(cache)
    everyone = jnp.arange(S)
    if caches is ragged:
      table_SN = 1 + jnp.arange(S * PAGES).reshape(S, PAGES)
      slots_R, everyone = table_SN[slots_R], table_SN
    o_RCQH = layers.extend(slots_R, start_R, count_R)(0)(*chunk)
    o_S1QH = layers.decode(everyone, length_S, length_S > 0)(0)(*token)
    return o_RCQH, o_S1QH

  return program


def check_caches():
  """A chunk and a step of decode: every device reads its own heads of its own rows."""
  grid = np.array(jax.devices()).reshape(2, 2)
  mesh = Mesh(grid, ('replica', 'tensor'), axis_types=(AxisType.Auto,) * 2)
  draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  heads = (SIZE.heads, SIZE.kv_heads, SIZE.kv_heads)
  chunk = [draw(i, 2 * R, C, n, SIZE.head_size) for i, n in enumerate(heads)]
  token = [draw(9 + i, 2 * S, 1, n, SIZE.head_size) for i, n in enumerate(heads)]
  lanes = [jnp.asarray(x, jnp.int32) for x in ((0, 2, 1, 1), (0, 0, 0, 8), (5, 8, 8, 3))]
  length = jnp.asarray((5, 0, 8, 0, 11, 0), jnp.int32)
  args = (chunk, token, *lanes, length)
  parts = [jax.tree.map(lambda a, i=i: jnp.split(a, 2)[i], args) for i in range(2)]
  expected = [jax.jit(_program(dense))(_empty(dense, 1), *part) for part in parts]
  expected = jax.tree.map(lambda *a: np.concatenate(a), *expected)
  for caches in (cudnn, ragged):
    part = PartitionSpec('replica')
    mapped = jax.shard_map(
      _program(caches),
      mesh=mesh,
      in_specs=part,
      out_specs=part,
      axis_names={'replica'},
      check_vma=False,
    )
    by_heads = NamedSharding(mesh, PartitionSpec('replica', None, 'tensor'))
    by_rows = NamedSharding(mesh, part)
    place = lambda a: jax.device_put(a, by_heads if a.ndim == 4 else by_rows)  # noqa: B023
    placed = jax.tree.map(place, (_empty(caches, 2), *args))
    compiled = jax.jit(mapped).lower(*placed).compile()
    assert not list(engine_worker.collectives(compiled.as_text())), caches
    found = jax.tree.map(np.asarray, compiled(*placed))
    for lane, count in enumerate(lanes[2]):
      np.testing.assert_allclose(
        found[0][lane, :count], expected[0][lane, :count], atol=TOLERANCE, err_msg=str(caches)
      )
    for slot in np.flatnonzero(length):
      np.testing.assert_allclose(found[1][slot], expected[1][slot], atol=TOLERANCE)


def check_engine(folder):
  """Rollouts over two replicas of two devices, whose heads are not the cache's second axis."""
  policy = policies.random_policy(folder / 'tokenizer')
  tasks = policies.make_tasks(['amber?', 'so'], samples=2)
  one = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
  single = policies.make_actor(policy, folder, training_mesh=one)
  split = policies.make_actor(policy, folder, sample_tensor=2, slots=4, cache='cudnn')
  for array in jax.tree.leaves(split._engine._cache):
    assert array.sharding.spec == PartitionSpec('replica', None, 'tensor')
  with Pool(config.Retrieval(backend='none')) as pool:
    done = [a.rollout(tasks, pool=pool, top_k=1, temperature=1.0) for a in (single, split)]
  for a, b in zip(*done):
    (a,), (b,) = a.contexts, b.contexts
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=TOLERANCE)


def main():
  with pytest.MonkeyPatch.context() as patch:
    check_learner(kernels.interpret(patch))
    check_caches()
  check_engine(pathlib.Path(sys.argv[1]))
  print('back-ends agree')


if __name__ == '__main__':
  main()
