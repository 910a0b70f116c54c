"""What a program of eight devices moves, counted from its text; run by test_plan.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python plan_worker.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch.plan import figures, traffic
from jaxsearch.plan.hlo import Program

ROUNDS = 5
MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)


def read(function, *arrays):
  """The collectives and the memory traffic of a function of arrays on the mesh."""
  program = Program(jax.jit(function).lower(*arrays).compile().as_text())
  return traffic.collectives(program, MESH), traffic.memory(program, seen=0)


def array(spec, *shape):
  at = NamedSharding(MESH, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=at)


def check_loop():
  """A sum over b in each of five rounds, one gathering over a behind them."""

  def function(x):
    def body(x, _):
      return jax.lax.psum(jnp.sin(x), 'b'), None

    x, _ = jax.lax.scan(body, x, length=ROUNDS)
    return jax.lax.all_gather(x, 'a')

  mapped = jax.shard_map(
    function,
    mesh=MESH,
    in_specs=PartitionSpec('a', 'b'),
    out_specs=PartitionSpec(None, 'b'),
    check_vma=False,
  )
  found, _ = read(mapped, array('ab', 16, 32))
  told = {(c.kind, c.axes, c.times, c.size, len(c.groups)) for c in found}
  part = 8 * 8 * 4  # Bytes of [8,8] float32.
  assert told == {('all-reduce', 'b', ROUNDS, part, 2), ('all-gather', 'a', 1, 2 * part, 4)}, told
  sent = {c.kind: c.sent for c in found}
  # Around a ring of four each part is sent three times to be summed and three times to be told.
  assert sent == {'all-reduce': ROUNDS * 2 * part * 3 / 4, 'all-gather': part}, sent


def check_unknown_rounds():
  """Of a loop that ends when a number says so, one round counts."""

  def function(x):
    return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x + jnp.sin(x), x)

  found, _ = read(function, array('ab', 16, 32))
  assert {c.kind for c in found} == {'all-reduce'}, found
  assert all(c.times == 1 for c in found), found
  assert {axis for c in found for axis in c.axes.split('+')} == {'a', 'b'}, found


def check_memory():
  """An array is read and written; of a slice that is replaced, the slice; in every round."""
  n = 4 * 2**20
  _, moved = read(lambda x: x * 2 + 1, array('', 2**20))
  assert moved == 2 * n, moved

  def update(x, y):
    body = lambda i, x: jax.lax.dynamic_update_slice(x, y * i, (i * 1024,))
    return jax.lax.fori_loop(0, 7, body, x)

  _, moved = read(jax.jit(update, donate_argnums=0), array('', 2**20), array('', 1024))
  assert moved < 2 * n + 7 * 20 * 1024, moved  # A copy of the whole before the loop, at most.


def check_vocabulary():
  """Logits that are gathered are told, parts of them are not."""
  size = type('Size', (), {'vocab': 1000})
  whole = lambda x: jax.lax.with_sharding_constraint(x * 2, NamedSharding(MESH, PartitionSpec()))
  logits, _ = read(whole, array((None, 'b'), 6, 1000))
  assert len(figures.whole_vocabulary(logits, size)) == 1, logits
  others, _ = read(whole, array((None, 'b'), 6, 2000))
  assert others and not figures.whole_vocabulary(others, size), others


def main():
  check_loop()
  check_unknown_rounds()
  check_memory()
  check_vocabulary()
  print('counted')


if __name__ == '__main__':
  main()
