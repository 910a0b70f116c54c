"""Compiles the engine's and the learner's programs for TPUs, without one; run by test_backends.py.

TPU_SKIP_MDS_QUERY=1 python tpu_worker.py v5e:2x2

The policy is small, but its heads and its 16-bit floats are those of real ones.
"""

import sys
import types

import jax
import jax.numpy as jnp
import learner_worker
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch import config, sharding
from jaxsearch.learner import Learner
from jaxsearch.models import decoder
from jaxsearch.rollout import sync
from jaxsearch.rollout.caches import ragged
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.lanes import Packer
from jaxsearch.rollout.memory import Memory
from jaxsearch.rollout.programs import Programs, no_rows

SIZE = decoder.Size(
  vocab=512, layers=2, embed=256, heads=8, kv_heads=2, head_size=128, hidden=512, qk_norm=True
)
REPLICAS, SLOTS, LANES, CHUNK, TIME, PAGE, PAGES = 2, 16, 4, 64, 4096, 64, 4097


def _at(mesh, tree, spec):
  place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))
  return jax.tree.map(place, tree)


def check_engine(devices):
  """Decode and extend over the ragged cache, on replicas of two devices; nothing is copied."""
  grid = np.array(devices).reshape(REPLICAS, -1)
  mesh = Mesh(grid, ('replica', 'tensor'), axis_types=(AxisType.Auto,) * 2)
  split = PartitionSpec('replica')
  programs = Programs(SIZE, ragged, 2, 8, jnp.bfloat16)
  rollout = types.SimpleNamespace(slots=SLOTS, pages=PAGES, block_tokens=PAGE, decode_steps=8)
  cache = jax.eval_shape(lambda: ragged.init(SIZE, rollout, REPLICAS, TIME, jnp.bfloat16))
  cache = _at(mesh, cache, PartitionSpec('replica', None, 'tensor'))
  abstract = jax.eval_shape(lambda: decoder.init(jax.random.key(0), SIZE))
  training = sharding.make_mesh(config.Mesh(), devices)
  weights = sync.WeightSync(SIZE, training, mesh, jnp.bfloat16)
  params = jax.tree.map(
    lambda a, spec: _at(mesh, a, spec), weights._spread.eval_shape(abstract), weights._specs
  )
  rows = _at(mesh, no_rows(REPLICAS * SLOTS, forced=0), split)
  memory = Memory(rollout, REPLICAS, TIME, paged=True)
  packer = Packer(memory, slots=SLOTS, replicas=REPLICAS, chunk=CHUNK, forces=0)
  slots = np.tile(np.arange(SLOTS, dtype=np.int32), REPLICAS)
  once = {'table': np.zeros((3, SIZE.vocab), np.int32), 'steps': np.int32(1), 'stops': np.int32(1)}
  places = {'slots': slots, 'where': memory.places(slots)}
  calls = {
    'decode': (3, _at(mesh, once, PartitionSpec()) | _at(mesh, places, split)),
    'extend': (2, _at(mesh, packer.pack([], LANES), split)),
  }
  held = sum(a.size * a.dtype.itemsize for a in cache.pages) // len(devices)
  for name, (outputs, last) in calls.items():
    owner = types.SimpleNamespace(_mesh=mesh)
    program = Engine._program(owner, getattr(programs, name), outputs=outputs)
    compiled = program.lower(params, cache, rows, last).compile()
    assert compiled.as_text().count('ragged_paged_attention_kernel') >= SIZE.layers, name
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= held, (name, memory, held)
    assert memory.temp_size_in_bytes < 0.02 * held, (name, memory, held)
    print(name, f'{memory.temp_size_in_bytes / held:.3f} of the cache as temporaries')


def check_learner(devices):
  """An update with splash attention, rows and heads split in two."""
  settings = learner_worker.make_config()
  settings.policy = config.Policy(dtype='bfloat16', attention='splash')
  mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=2), devices)
  learner = Learner(settings, SIZE, mesh)
  batch = learner_worker.make_batch(0, 4, 1024)
  batch = _at(mesh, batch, PartitionSpec(('data', 'fsdp')))
  compiled = []
  lower = learner._accumulate.lower
  learner._accumulate = types.SimpleNamespace(
    lower=lambda *args, **kwargs: compiled.append(lower(*args, **kwargs)) or compiled[-1]
  )
  learner.compile([batch])
  text = compiled[0].compile().as_text()
  for kernel in ('splash_mha_fwd', 'splash_mha_dq', 'splash_mha_dkv'):
    assert kernel in text, kernel


def main():
  devices = topologies.get_topology_desc(sys.argv[1], platform='tpu').devices
  check_engine(devices)
  check_learner(devices)
  print('compiled')


if __name__ == '__main__':
  main()
