"""Rollouts on one device and on two replicas of two devices; run by test_engine.py.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python engine_worker.py FOLDER
"""

import functools
import pathlib
import re
import sys

import jax
import numpy as np
import policies
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxsearch import config, sharding
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout import sampling

TOLERANCE = 2e-5
# Devices 0 and 1 share one copy of the weights and the first half of the slots; 2 and 3 the rest.
REPLICAS = ({0, 1}, {2, 3})
COLLECTIVES = (
  'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast'
)


def collectives(hlo):
  """The groups of devices that meet in each collective of a compiled program."""
  for line in hlo.splitlines():
    if not re.search(rf'= .*\b({COLLECTIVES})(-start)?\(', line):
      continue
    pairs = re.search(r'source_target_pairs=\{(\{.*?\})\}', line)
    if pairs:  # On CPU all devices of all pairs wait for each other.
      yield set(map(int, re.findall(r'\d+', pairs[1])))
      continue
    listed = re.search(r'replica_groups=\{(\{.*?\})\}', line)
    iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line)
    if listed:
      yield from (set(map(int, g.split(','))) for g in re.findall(r'\{([\d,]+)\}', listed[1]))
      continue
    assert iota, f'unread groups of devices: {line}'
    shape, dims, order = ([int(n) for n in (g or '').split(',') if n] for g in iota.groups())
    ids = np.arange(np.prod(dims)).reshape(dims)
    yield from map(set, ids.transpose(order or range(len(dims))).reshape(shape).tolist())


def check_programs(engine):
  """Every program talks inside its replica only, and decode does talk there."""
  for name, program in engine.lowered().items():
    groups = list(collectives(program.compile().as_text()))
    assert groups or name == 'fork', f'{name}: nothing is split over tensor'
    for group in groups:
      assert any(group <= replica for replica in REPLICAS), f'{name}: {group} meet'


def check_same(*done):
  for a, b in zip(*done, strict=True):
    (a,), (b,) = a.contexts, b.contexts
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=TOLERANCE)


def check_kernels(policy, folder, tasks):
  """The kernels for CPUs, on one device and on four replicas."""
  native = {'cache': 'native', 'block_tokens': 64}
  one = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
  single = policies.make_actor(policy, folder, training_mesh=one, **native)
  split = policies.make_actor(policy, folder, slots=2, **native)
  assert (split._engine.replicas, split._engine.slots) == (4, 8)
  for name, program in split._engine.lowered().items():
    assert not list(collectives(program.compile().as_text())), f'{name}: somebody meets'
  with Pool(config.Retrieval(backend='none')) as pool:
    done = [a.rollout(tasks, pool=pool, top_k=1, temperature=1.0) for a in (single, split)]
  check_same(*done)


def check_sampling():
  """A split vocabulary is drawn from like a whole one, -inf in half of it and on whole devices."""
  rng = np.random.default_rng(0)
  mesh = Mesh(np.array(jax.devices()), ('tensor',), axis_types=(AxisType.Auto,))
  parts = (PartitionSpec(None, 'tensor'), PartitionSpec(), PartitionSpec())
  over = functools.partial(sampling.sample_over, axis='tensor')
  outputs = (PartitionSpec(),) * 2
  split = jax.shard_map(over, mesh=mesh, in_specs=parts, out_specs=outputs, check_vma=False)
  logits = rng.normal(0, 3, (512, 4 * 300)).astype(np.float32)
  logits[rng.random(logits.shape) < 0.5] = -np.inf
  logits[:100, :600] = logits[100:200, 300:] = -np.inf
  temperatures = rng.choice([0.0, 0.7, 1.0], 512).astype(np.float32)
  uniforms = rng.random(512).astype(np.float32)
  (a, p), (b, q) = (jax.jit(f)(logits, uniforms, temperatures) for f in (split, sampling.sample))
  assert np.mean(np.asarray(a) == np.asarray(b)) > 0.99  # Sums are rounded in another order.
  np.testing.assert_allclose(p[a == b], q[a == b], atol=TOLERANCE)
  assert set(np.asarray(a) // 300) == {0, 1, 2, 3}


def main():
  check_sampling()
  folder = pathlib.Path(sys.argv[1])
  policy = policies.random_policy(folder / 'tokenizer')
  tasks = policies.make_tasks(['amber?', 'where is birch', 'so'], samples=4)
  one = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
  single = policies.make_actor(policy, folder, training_mesh=one)
  split = policies.make_actor(policy, folder, sample_tensor=2, slots=4)
  assert (split._engine.replicas, split._engine.slots) == (2, 8)
  check_programs(split._engine)  # Before it runs: what is wrong here may wait for ever there.
  compiled = []
  with Pool(config.Retrieval(backend='none')) as pool:
    done = [single.rollout(tasks, pool=pool, top_k=1, temperature=1.0)]
    jax.monitoring.register_event_duration_secs_listener(
      lambda name, *_, **__: compiled.append(name)
    )
    done.append(split.rollout(tasks, pool=pool, top_k=1, temperature=1.0))
  compiled = [name for name in compiled if '/compile/' in name]
  assert not compiled, compiled
  check_same(*done)
  check_kernels(policy, folder, tasks)
  print('replicas agree')


if __name__ == '__main__':
  main()
