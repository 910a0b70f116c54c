"""The mesh and the placement tables, and their error messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxsearch import config, sharding
from jaxsearch.models import decoder
from jaxsearch.types import UserError

SIZE = decoder.Size(vocab=32, layers=2, embed=8, heads=4, kv_heads=2, head_size=4, hidden=12)


class Device:
  """A stand-in for a device of another machine: only its place matters here."""

  def __init__(self, process_index, id):
    self.process_index, self.id = process_index, id


def devices(hosts, each):
  return [Device(h, 10 * h + i) for i in reversed(range(each)) for h in range(hosts)]


def mesh_of(data=-1, fsdp=1, tensor=1, hosts=1, each=8):
  return sharding.make_mesh(config.Mesh(data, fsdp, tensor), devices(hosts, each))


def test_free_axis_takes_what_is_left():
  assert dict(mesh_of(-1, 2, 2).shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  assert dict(mesh_of(2, -1, 1).shape) == {'data': 2, 'fsdp': 4, 'tensor': 1}
  assert dict(mesh_of(8, 1, 1).shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}


def test_hosts_are_contiguous_and_tensor_is_innermost():
  grid = mesh_of(2, 2, 2, hosts=2, each=4).devices
  assert [d.process_index for d in grid.ravel()] == [0] * 4 + [1] * 4
  assert [d.id for d in grid[0, 1]] == [2, 3]


@pytest.mark.parametrize(
  'sizes, hosts, each, says',
  [
    ((3, 1, 1), 1, 8, ['mesh.data=3', 'mesh.fsdp=1', 'mesh.tensor=1', '8 devices']),
    ((-1, 3, 1), 1, 8, ['mesh.fsdp=3', '8 devices']),
    ((2, 1, 1), 1, 8, ['mesh.data=2', '8 devices']),
    ((-1, -1, 1), 1, 8, ['mesh.data=-1', 'mesh.fsdp=-1', 'at most one']),
    ((0, 1, -1), 1, 8, ['mesh.data=0', '1 or more']),
    ((1, 1, 8), 2, 4, ['mesh.tensor=8', '4 devices of a host']),
  ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, hosts, each, says):
  with pytest.raises(UserError) as error:
    mesh_of(*sizes, hosts=hosts, each=each)
  assert all(part in str(error.value) for part in says)


@pytest.mark.parametrize('field, value', [('attention', 'splash'), ('cache', 'ragged')])
def test_a_kernel_for_other_devices_is_refused(field, value):
  settings = config.Config()
  setattr(settings.policy if field == 'attention' else settings.rollout, field, value)
  with pytest.raises(UserError, match=f"{field} is '{value}', a kernel for TPUs"):
    sharding.open_mesh(settings)
  assert sharding.open_mesh(config.Config()).size == jax.device_count()


def test_a_kernel_for_cpus_is_refused_on_a_gpu(monkeypatch):
  settings = config.Config(rollout=config.Rollout(cache='native'))
  sharding.require_kernels(settings)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(UserError, match="'native', a kernel for CPUs, but .* are GPUs. Take 'paged'"):
    sharding.require_kernels(settings)


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_table_places_every_parameter_of_the_decoder(tied, bias):
  size = decoder.Size(
    **{**vars(SIZE), 'tied_embeddings': tied, 'attention_bias': bias, 'qk_norm': True}
  )
  params = jax.eval_shape(lambda: decoder.init(jax.random.key(0), size))
  found = sharding.shardings(params, decoder.AXES, mesh_of(2, 2, 2))
  assert jax.tree.structure(found) == jax.tree.structure(params)
  assert found['embed'].spec == PartitionSpec('tensor', 'fsdp')
  assert found['layers']['attention']['query']['kernel'].spec == PartitionSpec(
    None, 'fsdp', 'tensor', None
  )
  assert found['layers']['mlp']['down']['kernel'].spec == PartitionSpec(None, 'tensor', 'fsdp')


def test_all_problems_are_reported_together():
  tree = {
    'good': jnp.zeros((4, 8)),
    'none': jnp.zeros((3,)),
    'twice': {'x': jnp.zeros((2, 2))},
    'rank': jnp.zeros((2, 2, 2)),
    'odd': jnp.zeros((5, 7)),
  }
  axes = (
    ('good|rank|odd', ('vocab', 'embed')),
    ('twice/x', ('vocab', None)),
    ('twice/.*', ('vocab', None)),
    ('non', (None,)),  # Matches the whole path or nothing.
  )
  with pytest.raises(UserError) as error:
    sharding.shardings(tree, axes, mesh_of(2, 2, 2))
  lines = str(error.value).splitlines()[1:]
  assert len(lines) == 5
  for part in (
    'none (3,) is matched by no pattern',
    "twice/x (2, 2) is matched by 2 patterns: ['twice/x', 'twice/.*']",
    'rank (2, 2, 2) has 3 axes',
    'vocab=5 is not divisible by mesh.tensor=2',
    'embed=7 is not divisible by mesh.fsdp=2',
  ):
    assert any(part in line for line in lines)


def test_rows_keep_their_order_and_must_divide():
  mesh = sharding.make_mesh(config.Mesh())
  rows = {'a': np.arange(6).reshape(3, 2), 'b': None}
  placed = sharding.place_rows(rows, mesh)
  np.testing.assert_array_equal(placed['a'], rows['a'])
  assert placed['b'] is None


def test_gather_of_one_host():
  assert sharding.gather_json({'a': [1, 'é']}) == [{'a': [1, 'é']}]
