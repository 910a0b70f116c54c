"""Losses, KL estimators and norms against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.algo import kl, losses, norms

LN2 = float(np.log(2.0))
LN15 = float(np.log(1.5))


def clipped(logprob, old, advantage):
  arrays = (jnp.array(a) for a in (logprob, old, advantage))
  return losses.clipped_ratio(*arrays, jnp.ones(len(old), bool), clip_low=0.2, clip_high=0.3)


def test_clipped_ratio_by_hand():
  # Ratio 1.5, 1.5, 0.5, 0.5, 1; bounds [0.8, 1.3].
  logprob = [LN15 - 3, LN15 - 3, -LN2 - 3, -LN2 - 3, -3.0]
  loss, is_clipped = clipped(logprob, [-3.0] * 5, [2.0, -1.0, 2.0, -1.0, 4.0])
  np.testing.assert_allclose(loss, [-2.6, 1.5, -1.0, 0.8, -4.0], rtol=1e-6)
  np.testing.assert_array_equal(is_clipped, [True, False, False, True, False])


def test_clipped_ratio_gradient_is_ratio_times_advantage_or_nothing():
  total = lambda logprob: jnp.sum(clipped(logprob, [-3.0] * 4, [2.0, -1.0, 2.0, -1.0])[0])
  logprob = jnp.array([LN15 - 3, LN15 - 3, -LN2 - 3, -LN2 - 3])
  np.testing.assert_allclose(jax.grad(total)(logprob), [0.0, 1.5, -1.0, 0.0], rtol=1e-6)


def test_likelihood_is_weighted_negative_logprob():
  arrays = (jnp.array(a) for a in ([-2.0, -3.0], [9.0, 9.0], [1.0, 0.1], [True, True]))
  loss, is_clipped = losses.likelihood(*arrays, clip_low=0, clip_high=0)
  np.testing.assert_allclose(loss, [2.0, 0.3], rtol=1e-6)
  assert not is_clipped.any()


def test_sequence_ratio_by_hand():
  # First row: log-ratios ln 4 and 0, the third not kept: s = 2. Second row: nothing kept.
  logprobs = jnp.array([[2 * LN2 - 3, -3.0, 5.0], [1.0, 1.0, 1.0]])
  kept = jnp.array([[True, True, False], [False] * 3])
  arguments = (jnp.full((2, 3), -3.0), jnp.array([[1.0, -2.0, 9.0]] * 2), kept)

  def loss(logprobs, high):
    return losses.sequence_ratio(logprobs, *arguments, clip_low=0.2, clip_high=high)

  free, is_clipped = loss(logprobs, 9.0)
  np.testing.assert_allclose(free[0, :2], [-2.0, 4.0], rtol=1e-6)
  assert not is_clipped[0, :2].any()
  bound, is_clipped = loss(logprobs, 0.5)
  np.testing.assert_allclose(bound[0, :2], [-1.5, 4.0], rtol=1e-6)
  np.testing.assert_array_equal(is_clipped[0, :2], [True, False])
  gradient = jax.grad(lambda x: jnp.sum(loss(x, 9.0)[0] * kept))(logprobs)
  np.testing.assert_allclose(gradient, [[-2.0, 4.0, 0.0], [0.0] * 3], rtol=1e-6)


def test_clipped_weight_by_hand():
  logprobs, old = jnp.array([-1.0, -1.0]), jnp.array([-1.0 - LN15, -1.0 + LN2])

  def loss(logprobs):
    arrays = (logprobs, old, jnp.array([2.0, 2.0]), jnp.ones(2, bool))
    return losses.clipped_weight(*arrays, clip_low=0.2, clip_high=0.2)

  # Weights 1.5 and 0.5, cut to 1.2 and 0.8.
  np.testing.assert_allclose(loss(logprobs)[0], [2.4, 1.6], rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(loss(x)[0]))(logprobs)
  np.testing.assert_allclose(gradient, [-2.4, -1.6], rtol=1e-6)


@pytest.mark.parametrize(
  'name, at_ln2, at_minus_ln2', [('k1', LN2, -LN2), ('k2', 0.2402265, 0.2402265),
                                 ('k3', 0.5 + LN2 - 1, 2 - LN2 - 1)]
)  # fmt: skip
def test_kl_by_hand(name, at_ln2, at_minus_ln2):
  estimate = getattr(kl, name)
  logprobs, reference = jnp.array([-1.0, -1.0, -1.0]), jnp.array([-1.0 - LN2, -1.0 + LN2, -1.0])
  found = estimate(logprobs, reference)
  np.testing.assert_allclose(found, [at_ln2, at_minus_ln2, 0.0], rtol=1e-5, atol=1e-7)


def expectation(estimate, logits, reference):
  p = jax.nn.softmax(logits)
  return jnp.sum(p * estimate(jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)))


@pytest.mark.parametrize('name', ['k1', 'k3'])
def test_expected_value_is_the_reverse_kl(name):
  logits, reference = jnp.array([0.3, -0.5, 1.1]), jnp.array([0.0, 0.4, -0.2])
  p, q = jax.nn.softmax(logits), jax.nn.softmax(reference)
  true = jnp.sum(p * jnp.log(p / q))
  np.testing.assert_allclose(expectation(getattr(kl, name), logits, reference), true, rtol=1e-5)


@pytest.mark.parametrize('name', ['k2', 'k3'])
def test_descending_the_kl_term_moves_towards_the_reference(name):
  reference = jax.nn.log_softmax(jnp.array([0.0, 0.4, -0.2]))

  def term(logits):  # As in training: the sampling weights carry no gradient.
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return jnp.sum(p * getattr(kl, name)(jax.nn.log_softmax(logits), reference))

  def true_kl(logits):
    return jnp.sum(jax.nn.softmax(logits) * (jax.nn.log_softmax(logits) - reference))

  logits = jnp.array([0.3, -0.5, 1.1])
  moved = logits - 0.1 * jax.grad(term)(logits)
  assert true_kl(moved) < true_kl(logits)


def test_k3_is_clamped_and_its_gradient_stays_finite():
  logprobs, reference = jnp.array([-200.0, -8.0, -1.0]), jnp.array([-1.0, -1.0, -300.0])
  value, gradient = jax.vmap(jax.value_and_grad(kl.k3))(logprobs, reference)
  np.testing.assert_allclose(value, [10.0, 10.0, 10.0])
  np.testing.assert_array_equal(gradient, [0.0, 0.0, 0.0])


KEPT = jnp.array([[False, True, True, True], [False, True, False, False], [False] * 4])
WEIGHTS = jnp.array([1.0, 0.5, 1.0])


@pytest.mark.parametrize(
  'name, coefficients, denominator',
  [
    # Three tokens and half a one; two rows, one of them half; times 10 tokens.
    ('token', [[0, 1, 1, 1], [0, 0.5, 0, 0], [0] * 4], 3.5),
    ('sequence', [[0, 1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0, 0], [0] * 4], 1.5),
    ('constant', [[0, 1, 1, 1], [0, 0.5, 0, 0], [0] * 4], 15.0),
  ],
)
def test_norms_by_hand(name, coefficients, denominator):
  found, share = getattr(norms, name)(KEPT, WEIGHTS, 10)
  np.testing.assert_allclose(found, coefficients, rtol=1e-6)
  assert float(share) == denominator
