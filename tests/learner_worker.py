"""Updates of a toy policy on some mesh, run in a process of its own by test_learner.py.

  python learner_worker.py OUT data,fsdp,tensor [--host=0 --hosts=2 --port=9 --empty]

Pretend devices and the number of processes are settled before JAX starts its backend, hence the
separate process. Writes parameters, moments and metrics after two updates to OUT (.npz).
"""

import argparse
import dataclasses
import json

import jax
import numpy as np

from jaxsearch import config, sharding
from jaxsearch.learner import Batch, Learner
from jaxsearch.models import decoder

SIZE = decoder.Size(vocab=64, layers=2, embed=16, heads=4, kv_heads=2, head_size=4, hidden=24)


def make_config(**algo):
  settings = config.Config()
  settings.algo = dataclasses.replace(settings.algo, kl_coef=0.3, entropy_coef=0.1, **algo)
  settings.optimizer = config.Optimizer(learning_rate=1e-2, grad_clip=0.5, eps=1e-4)
  settings.learner.logprob_chunk = 16
  settings.policy.remat = 'none'  # Quicker to compile.
  return settings


def make_batch(seed, rows, T):
  """Rows that differ in length, mask, weight and content; numpy."""
  rng = np.random.default_rng(seed)
  return Batch(
    tokens=rng.integers(0, SIZE.vocab, (rows, T)).astype(np.int32),
    lengths=rng.integers(3, T + 1, rows).astype(np.int32),
    loss_mask=rng.random((rows, T)) < 0.6,
    sampler_logprobs=rng.normal(-4, 0.3, (rows, T)).astype(np.float32),
    advantages=rng.normal(size=(rows, T)).astype(np.float32),
    weights=rng.choice([0.5, 1.0], rows).astype(np.float32),
    reference_logprobs=rng.normal(-4, 0.3, (rows, T)).astype(np.float32),
    sampled_mask=rng.random((rows, T)) < 0.9,
  )


def make_params():
  return jax.tree.map(np.asarray, decoder.init(jax.random.key(0), SIZE))


def blank(batch):
  """The same shape without a trajectory."""
  zero = lambda leaf: np.zeros_like(leaf)
  return dataclasses.replace(batch, lengths=zero(batch.lengths), weights=zero(batch.weights))


def shares(batch, host, hosts):
  """The rows of one of several hosts."""
  return jax.tree.map(lambda leaf: np.split(leaf, hosts)[host], batch)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('out')
  parser.add_argument('mesh')
  parser.add_argument('--host', type=int, default=0)
  parser.add_argument('--hosts', type=int, default=1)
  parser.add_argument('--port', default='')
  parser.add_argument('--empty', action='store_true', help='the second half has no trajectory')
  parser.add_argument('--pack', type=int, default=1, help='1 or 2 contexts in a row')
  args = parser.parse_args()
  if args.hosts > 1:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(f'127.0.0.1:{args.port}', args.hosts, args.host)
  mesh = sharding.make_mesh(config.Mesh(*(int(size) for size in args.mesh.split(','))))
  settings = make_config(whiten=True)
  settings.learner.pack = args.pack
  learner = Learner(settings, SIZE, mesh)
  state = learner.init_state(make_params())
  metrics = []
  for seed in (0, 10):
    batches = []
    for batch in (make_batch(seed, 8, 12), make_batch(seed + 1, 16, 20)):
      # Two contexts fit into one row.
      batch = dataclasses.replace(
        batch, lengths=np.minimum(batch.lengths, batch.tokens.shape[1] // 2)
      )
      if args.empty:
        halves = [shares(batch, i, 2) for i in range(2)]
        halves[1] = blank(halves[1])
        batch = jax.tree.map(lambda a, b: np.concatenate([a, b]), *halves)
      batches.append(learner.place(shares(batch, args.host, args.hosts)))
    state, found = learner.update(state, learner.prepare(state.params, None, batches))
    metrics.append(found)
  assert sharding.gather_json({'host': args.host, 'pad': 'x' * args.host}) == [
    {'host': host, 'pad': 'x' * host} for host in range(args.hosts)
  ]
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  state = jax.jit(lambda s: s, out_shardings=everywhere)(state)
  leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
  np.savez(args.out, metrics=json.dumps(metrics), **leaves)


if __name__ == '__main__':
  main()
