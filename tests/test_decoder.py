"""The decoder: one function, whether whole sequences are read or a cache is written."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import config, kernels
from jaxsearch.models import attention, decoder, packed, remat
from jaxsearch.rollout import programs
from jaxsearch.rollout.caches import dense as cache_lib

# Sums in another order; hidden states are of size 1.
TOLERANCE = 1e-5
SHAPE = {'vocab': 97, 'layers': 2, 'embed': 24, 'heads': 4, 'kv_heads': 2, 'head_size': 6}
# Turns of the pairs of a head of 8 components.
TURNS = 1e4 ** (-np.arange(0, 8, 2, dtype=np.float32) / 8)
FAMILIES = {
  'qwen2': {'attention_bias': True, 'tied_embeddings': False},
  'qwen3': {'qk_norm': True, 'rope_base': 1e6, 'kv_heads': 1},
  'llama': {'tied_embeddings': False, 'norm_eps': 1e-5, 'rope_base': 5e5, 'kv_heads': 4},
}


def _size(name):
  return decoder.Size(**{**SHAPE, 'hidden': 40, **FAMILIES[name]})


def _params(size):
  """Random everywhere: norms and biases too, which `init` makes 1 and 0."""
  params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(1), size)
  rng = np.random.default_rng(2)
  return jax.tree.map(lambda p: p + rng.normal(0, 0.1, p.shape).astype(np.float32), params)


@functools.partial(jax.jit, static_argnames=('size', 'remat', 'scan'))
def _hidden(params, size, tokens, remat=remat.none, scan=False):
  return decoder.hidden(params, size, tokens, dtype=jnp.float32, remat=remat, scan=scan)


@functools.partial(jax.jit, static_argnames=('size',))
def _extend(params, size, cache, slots, start, count, tokens):
  layers = cache_lib.Layers(cache)
  positions = start[:, None] + jnp.arange(tokens.shape[1])
  attend = layers.extend(slots, start, count)
  x = decoder.cached_hidden(params, size, tokens, positions, attend=attend, dtype=jnp.float32)
  return layers.cache, x


@functools.partial(jax.jit, static_argnames=('size',))
def _decode(params, size, cache, length, tokens):
  layers = cache_lib.Layers(cache)
  x = decoder.cached_hidden(
    params,
    size,
    tokens[:, None],
    length[:, None],
    attend=layers.decode(jnp.arange(len(tokens)), length, length >= 0),
    dtype=jnp.float32,
  )
  return layers.cache, x


def test_packed_parameters_give_the_same_result():
  """Every kernel of every option in panels, the last of which is not full; and the head."""
  kernels.require()
  for options in FAMILIES:
    size = _size(options)
    params = decoder.unstack(_params(size), size)
    tokens, slots, start = _tokens(2, 6), np.array([1, 0]), np.zeros(2, np.int32)
    cache = cache_lib.init(size, config.Rollout(slots=2), 1, 8, jnp.float32)

    def run(params, project, size=size, tokens=tokens, slots=slots, start=start, cache=cache):
      attend = cache_lib.Layers(cache).extend(slots, start, np.full(2, 6))
      positions = np.tile(np.arange(6), (2, 1))
      return decoder.cached_hidden(
        params, size, tokens, positions, attend=attend, dtype=jnp.float32, project=project
      )

    held = packed.pack(params, size)
    x_BTD = run(held, packed.project)
    np.testing.assert_allclose(x_BTD, run(params, decoder.project), atol=TOLERANCE)
    x_ND = x_BTD.reshape(-1, size.embed)
    logits = x_ND @ decoder.unembedding(params, size).T
    np.testing.assert_allclose(packed.logits(held, size, x_ND), logits, atol=TOLERANCE)


def _tokens(rows, time, seed=0):
  return np.random.default_rng(seed).integers(0, SHAPE['vocab'], (rows, time)).astype(np.int32)


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
  size = _size(request.param)
  return size, _params(size)


def test_cached_equals_uncached(family):
  """In one chunk, in chunks that end anywhere, by decode, and by both in turn.

  Rows of different lengths lie in slots out of order, in a cache full of something else.
  """
  size, params = family
  tokens, lengths, slots = _tokens(2, 11), np.array([11, 7]), np.array([3, 1])
  expected = np.asarray(_hidden(params, size, tokens))
  unstacked = decoder.unstack(params, size)
  dirty = jax.tree.map(
    lambda a: a + 7.0, cache_lib.init(size, config.Rollout(slots=5), 1, 24, jnp.float32)
  )
  for cuts in ([11], [4, 4, 3], [1, 2, 8]):
    cache, at, found = dirty, np.zeros(2, np.int32), [[], []]
    for cut in cuts:
      count = np.minimum(cut, lengths - at).clip(0)
      chunk = np.zeros((2, 11), np.int32)
      for row in range(2):
        chunk[row, : count[row]] = tokens[row, at[row] : at[row] + count[row]]
      cache, x = _extend(unstacked, size, cache, slots, at, count, chunk)
      for row in range(2):
        found[row] += list(np.asarray(x[row, : count[row]]))
      at = at + count
    for row in range(2):
      np.testing.assert_allclose(found[row], expected[row, : lengths[row]], atol=TOLERANCE)
    # Decode goes on behind what was extended; slot 3 is full, so it repeats its last place.
    length = np.array([0, 7, 0, 10, 0], np.int32)
    fed = np.array([0, tokens[1, 7], 0, tokens[0, 10], 0], np.int32)
    _, x = _decode(unstacked, size, cache, length, fed)
    np.testing.assert_allclose(x[1, 0], expected[1, 7], atol=TOLERANCE)
    np.testing.assert_allclose(x[3, 0], expected[0, 10], atol=TOLERANCE)
  cache, places = dirty, np.array([9, 0, 4, 2, 7], np.int32)
  for t in range(11):
    length = np.where(np.isin(np.arange(5), slots), t, places).astype(np.int32)
    fed = np.zeros(5, np.int32)
    fed[slots] = tokens[:, t]
    cache, x = _decode(unstacked, size, cache, length, fed)
    np.testing.assert_allclose(x[slots, 0], expected[:, t], atol=TOLERANCE)


def test_a_fork_copies_every_layer(family):
  size, _ = family
  number = lambda a: jnp.arange(a.size, dtype=jnp.float32).reshape(a.shape)
  cache = jax.tree.map(number, cache_lib.init(size, config.Rollout(slots=5), 1, 8, jnp.float32))
  copied = jax.jit(programs.copy_entries)(cache, np.array([2, 0, 2]), np.array([4, 0, 1]))
  for old, new in zip(jax.tree.leaves(cache), jax.tree.leaves(copied)):
    np.testing.assert_array_equal(new, old[np.array([0, 2, 2, 3, 2])])


@pytest.mark.parametrize('name', ['keep_products', 'keep_attention', 'full'])
def test_scanned_and_rematerialised_or_not_is_one_function(name):
  """Values and gradients, with every option that adds a parameter."""
  size = dataclasses.replace(_size('qwen2'), qk_norm=True)
  params = _params(size)
  tokens = _tokens(2, 9)

  def loss(params, remat, scan):
    x = _hidden(params, size, tokens, remat=remat, scan=scan)
    return jnp.sum(jnp.sin(x @ decoder.unembedding(params, size).T))

  both = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
  value, grads = both(params, remat.none, False)
  other, other_grads = both(params, getattr(remat, name), True)
  np.testing.assert_allclose(other, value, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads)):
    np.testing.assert_allclose(b, a, atol=1e-4 * max(1.0, float(jnp.abs(a).max())))


def test_what_is_kept_is_not_made_again():
  """Products in the backward pass: fewer of them are made again, the more is kept."""
  size, tokens = _size('qwen2'), _tokens(2, 9)
  params = _params(size)

  def products(name):
    loss = lambda p: _hidden(p, size, tokens, remat=getattr(remat, name), scan=True).sum()
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count('dot_general')

  counts = [products(name) for name in ('none', 'keep_products', 'keep_attention', 'full')]
  assert counts == sorted(counts) and len(set(counts)) == 4


def test_no_token_is_seen_before_its_time(family):
  """By gradient: hidden state t moves with embedding s exactly when s <= t."""
  size, params = family
  time = 7
  tokens = np.arange(time, dtype=np.int32)[None]  # All different: each has its own embedding.
  params = {**params, 'head': decoder.unembedding(params, size)}

  def sums(embed):
    x_BTD = _hidden({**params, 'embed': embed}, size, tokens)
    return (x_BTD[0] * np.arange(1, 1 + size.embed)).sum(-1)

  moves = np.abs(jax.jit(jax.jacrev(sums))(params['embed'])[:, :time]).max(axis=-1) > 0
  np.testing.assert_array_equal(moves, np.tril(np.ones((time, time), bool)))


def test_blocks_of_queries_change_nothing(monkeypatch):
  """T = 300 spans three blocks; all at once gives the same."""
  rng = np.random.default_rng(0)
  q, k, v = (rng.normal(size=(2, 300, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
  cut = attention.causal(q, k, v)
  monkeypatch.setattr(attention, '_BLOCK', 512)
  np.testing.assert_allclose(cut, attention.causal(q, k, v), atol=1e-6)


def test_padding_and_neighbours_change_no_true_position(family):
  size, params = family
  tokens = _tokens(3, 12)
  expected = np.asarray(_hidden(params, size, tokens))
  other = tokens.copy()
  other[:, 8:] = _tokens(3, 4, seed=9)
  other[2] = _tokens(1, 12, seed=8)
  found = np.asarray(_hidden(params, size, other))
  np.testing.assert_array_equal(found[:2, :8], expected[:2, :8])
  assert np.abs(found[2] - expected[2]).max() > 0.1


def test_every_leaf_has_its_axes_once(family):
  size, params = family
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    matches = [axes for pattern, axes in decoder.AXES if re.fullmatch(pattern, name)]
    assert len(matches) == 1, (name, matches)
    assert len(matches[0]) == leaf.ndim, name


def test_every_pattern_is_used():
  names = set()
  for name in FAMILIES:
    leaves = jax.tree_util.tree_leaves_with_path(_params(_size(name)))
    names |= {jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves}
  for pattern, _ in decoder.AXES:
    assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_positions_turn_by_their_distance_only():
  """Rotary embedding: products of queries and keys depend on the difference of their places."""
  rng = np.random.default_rng(3)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
  product = lambda i, j: float(
    jnp.sum(decoder.rotate(q, np.array([[i]]), TURNS) * decoder.rotate(k, np.array([[j]]), TURNS))
  )
  assert product(3, 1) == pytest.approx(product(43, 41), abs=1e-4)
  assert product(3, 1) != pytest.approx(product(1, 3), abs=1e-2)


def test_places_are_exact_in_bfloat16():
  """Place 257 has no bfloat16; phases are float32."""
  x = np.ones((1, 2, 1, 8), jnp.bfloat16)
  turned = decoder.rotate(x, np.array([[256, 257]]), TURNS).astype(np.float32)
  assert np.abs(turned[0, 0] - turned[0, 1]).max() > 0.1
