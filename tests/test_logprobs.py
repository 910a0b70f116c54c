"""Chunked log-probabilities equal the plain ones, and masked positions get no gradient at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.algo import logprobs

B, T, D, V = 3, 11, 8, 17


@pytest.fixture(name='inputs')
def _inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  x_BTD = jax.random.normal(keys[0], (B, T, D))
  w_VD = jax.random.normal(keys[1], (V, D))
  return x_BTD, w_VD, jax.random.randint(keys[2], (B, T), 0, V)


def plain(x_BTD, w_VD, tokens_BT, temperature):
  p_BTV = jax.nn.log_softmax(jnp.einsum('btd,vd->btv', x_BTD, w_VD) / temperature)
  chosen = jnp.take_along_axis(p_BTV[:, :-1], tokens_BT[:, 1:, None], -1)[..., 0]
  entropy = -jnp.sum(jnp.exp(p_BTV) * p_BTV, -1)[:, :-1]
  return tuple(jnp.pad(a, ((0, 0), (1, 0))) for a in (chosen, entropy))


@pytest.mark.parametrize('chunk', [1, 6, 9, 1000])
@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_equals_plain_values_and_gradients(inputs, chunk, temperature):
  x_BTD, w_VD, tokens_BT = inputs
  weights = jax.random.normal(jax.random.key(9), (2, B, T))

  def total(function, x_BTD, w_VD):
    found = function(x_BTD, w_VD)
    return sum(jnp.sum(w * f) for w, f in zip(weights, found)), found

  chunked = lambda x, w: logprobs.token_logprobs(
    x, w, tokens_BT, temperature=temperature, chunk=chunk
  )
  both = [
    jax.grad(total, argnums=(1, 2), has_aux=True)(function, x_BTD, w_VD)
    for function in (chunked, lambda x, w: plain(x, w, tokens_BT, temperature))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *both)


def test_entry_zero_is_zero_and_large_logits_stay_finite(inputs):
  x_BTD, w_VD, tokens_BT = inputs
  found = logprobs.token_logprobs(x_BTD * 1e4, w_VD, tokens_BT, temperature=1.0, chunk=6)
  assert all(np.isfinite(f).all() and (f[:, 0] == 0).all() for f in found)


def test_one_token_rows_have_nothing_to_predict(inputs):
  x_BTD, w_VD, tokens_BT = inputs
  found = logprobs.token_logprobs(x_BTD[:, :1], w_VD, tokens_BT[:, :1], temperature=1.0, chunk=6)
  np.testing.assert_array_equal(found, np.zeros((2, B, 1)))


def test_ids_that_do_not_exist_give_no_nan(inputs):
  x_BTD, w_VD, tokens_BT = inputs
  strange = tokens_BT.at[0, 3].set(-1).at[1, 4].set(10**6)
  found = logprobs.token_logprobs(x_BTD, w_VD, strange, temperature=1.0, chunk=6)
  assert all(np.isfinite(f).all() for f in found)


def test_half_precision_products_are_summed_in_float32(inputs):
  x_BTD, w_VD, tokens_BT = inputs
  x_BTD = x_BTD.astype(jnp.bfloat16)
  found = logprobs.token_logprobs(x_BTD, w_VD, tokens_BT, temperature=1.0, chunk=6)
  rounded = (x_BTD.astype(jnp.float32), w_VD.astype(jnp.bfloat16).astype(jnp.float32))
  expected = plain(*rounded, tokens_BT, 1.0)
  assert found[0].dtype == jnp.float32
  np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


def test_wrong_shapes_are_refused(inputs):
  x_BTD, w_VD, tokens_BT = inputs
  with pytest.raises(ValueError, match='shapes disagree'):
    logprobs.token_logprobs(x_BTD, w_VD, tokens_BT[:, 1:], temperature=1.0, chunk=6)
