"""Compiles the engine's and the learner's programs for TPUs, without one; run by test_backends.py.

TPU_SKIP_MDS_QUERY=1 python tpu_worker.py v5e:2x2

The policy is small, but its heads and its 16-bit floats are those of real ones.
"""

import re
import sys

import jax
import jax.numpy as jnp
import learner_worker
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from jaxsearch import config, sharding
from jaxsearch.learner import Learner
from jaxsearch.models import decoder
from jaxsearch.rollout import sync
from jaxsearch.rollout.jitted import Jitted
from jaxsearch.text.stops import StopTable

SIZE = decoder.Size(
  vocab=512, layers=2, embed=256, heads=8, kv_heads=2, head_size=128, hidden=512, qk_norm=True
)
ROLLOUT = config.Rollout(
  slots=16,
  context_tokens=4032,
  policy_tokens=2000,
  decode_steps=8,
  extend_rows=4,
  extend_tokens=64,
  block_tokens=64,
  pages=4097,
  cache='ragged',
  deterministic=False,
)
STOPS = StopTable(np.zeros((3, SIZE.vocab), np.int32), 2, ('eos',))


def check_engine(devices):
  """Decode and extend over the ragged cache, on replicas of two devices; nothing is copied."""
  training = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=2), devices)
  mesh = sync.sampling_mesh(training, 2)
  weights = sync.WeightSync(SIZE, training, mesh, jnp.bfloat16)
  params = Learner(config.Config(), SIZE, training).abstract_state().params
  jitted = Jitted(SIZE, STOPS, ROLLOUT, mesh=mesh, dtype=jnp.bfloat16, spare=0)
  held = sum(a.size * a.dtype.itemsize for a in jitted.abstract_cache().pages) // len(devices)
  programs = jitted.traced(weights.abstract(params, mesh))
  for name in ('decode', 'extend'):
    compiled = programs[name].lower().compile()
    text = compiled.as_text()
    assert text.count('ragged_paged_attention_kernel') >= SIZE.layers, name
    assert not re.search(rf'= \S+{SIZE.vocab}\]\S* all-gather', text), name
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= held, (name, memory, held)
    assert memory.temp_size_in_bytes < 0.02 * held, (name, memory, held)
    print(name, f'{memory.temp_size_in_bytes / held:.3f} of the cache as temporaries')


def check_learner(devices):
  """An update with splash attention, rows and heads split in two."""
  settings = learner_worker.make_config()
  settings.policy = config.Policy(dtype='bfloat16', attention='splash')
  mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=2), devices)
  at = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  batch = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at),
    learner_worker.make_batch(0, 4, 1024),
  )
  programs = dict(Learner(settings, SIZE, mesh).traced([batch]))
  text = programs['accumulate'].lower().compile().as_text()
  for kernel in ('splash_mha_fwd', 'splash_mha_dq', 'splash_mha_dkv'):
    assert kernel in text, kernel


def main():
  devices = topologies.get_topology_desc(sys.argv[1], platform='tpu').devices
  check_engine(devices)
  check_learner(devices)
  print('compiled')


if __name__ == '__main__':
  main()
