"""The outline of copying heads: where they look, what they write, and whom it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models import attention, copying, decoder

SIZE = decoder.Size(
  vocab=50,
  layers=2,
  embed=64,
  heads=4,
  kv_heads=4,
  head_size=32,
  hidden=48,
  rope_base=100.0,
  attention_bias=True,
)


@pytest.fixture(scope='module')
def params():
  key, copying_key = jax.random.split(jax.random.key(0))
  return copying.outline(decoder.init(key, SIZE), SIZE, copying_key)


def _weights(params, T=60):
  """Attention weights [layer][head, query, key] on random tokens."""
  found = []

  def attend(_):
    def inner(q, k, v):
      logits = jnp.einsum('btqh,bsqh->bqts', q, k) * SIZE.head_size**-0.5
      logits = jnp.where(jnp.tril(jnp.ones((T, T), bool)), logits, -jnp.inf)
      found.append(np.asarray(jax.nn.softmax(logits))[0])
      return attention.causal(q, k, v)

    return inner

  tokens = jax.random.randint(jax.random.key(1), (1, T), 0, SIZE.vocab)
  decoder.cached_hidden(
    decoder.unstack(params, SIZE),
    SIZE,
    tokens,
    jnp.arange(T)[None],
    attend=attend,
    dtype=jnp.float32,
  )
  return found


def test_three_heads_of_the_first_layer_look_back(params):
  first, second = _weights(params)
  for head, back in enumerate((1, 2, 3)):
    looked = first[head][np.arange(back, 60), np.arange(60 - back)]
    assert looked.min() > 0.5, back
    # No such habit in the second layer, which matches by content.
    assert second[head][np.arange(back, 60), np.arange(60 - back)].mean() < 0.3


def test_heads_write_what_they_attend_to(params):
  layer = jax.tree.map(lambda p: np.asarray(p[1]), params['layers'])['attention']
  through = np.einsum('dnh,nhe->de', layer['value']['kernel'], layer['out']['kernel'])
  np.testing.assert_allclose(through, 0.2 * np.eye(SIZE.embed), atol=1e-5)
  assert not np.any(params['layers']['mlp']['down']['kernel'])


def test_the_tree_is_the_decoder_s(params):
  plain = decoder.init(jax.random.key(0), SIZE)
  assert jax.tree.structure(params) == jax.tree.structure(plain)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, plain)


@pytest.mark.parametrize(
  'change',
  [{'attention_bias': False}, {'qk_norm': True}, {'kv_heads': 1}, {'heads': 1, 'kv_heads': 1}],
)
def test_a_model_without_room_for_it_is_refused(change):
  size = dataclasses.replace(SIZE, **change)
  with pytest.raises(ValueError, match='outline of copying heads'):
    copying.outline(decoder.init(jax.random.key(0), size), size, jax.random.key(1))
