"""KL in the reward and whitening against numbers worked by hand."""

import dataclasses

import jax.numpy as jnp
import learner_worker as toy
import numpy as np

from jaxsearch import config, sharding
from jaxsearch.algo import kl, shaping
from jaxsearch.learner import Learner


def make_batch(**change):
  """Two rows of four; the second has half weight and length 3, and its token 1 is not trained."""
  batch = toy.make_batch(0, 2, 4)
  fields = {
    'lengths': np.array([4, 3], np.int32),
    'weights': np.array([1.0, 0.5], np.float32),
    'loss_mask': np.array([[False, True, True, True], [False, False, True, True]]),
    'sampled_mask': np.ones((2, 4), bool),
    'advantages': np.array([[9.0, 1.0, 2.0, 4.0], [9.0, 9.0, 6.0, np.nan]], np.float32),
    'sampler_logprobs': np.full((2, 4), -2.0, np.float32),
    'reference_logprobs': np.array([[-9, -2.1, -2.2, -2.3], [-9, -9, -2.5, np.nan]], np.float32),
  }
  return dataclasses.replace(batch, **(fields | change))


def test_kl_is_taken_off_each_token_and_all_before_it():
  found = shaping.penalize(make_batch(), kl.k1, 1.0).advantages
  np.testing.assert_allclose(found[0, 1:], [1 - 0.6, 2 - 0.5, 4 - 0.3], rtol=1e-6)
  np.testing.assert_allclose(found[1, 2], 6 - 0.5, rtol=1e-6)
  np.testing.assert_allclose(
    shaping.penalize(make_batch(), kl.k1, 0.1).advantages[0, 1], 1 - 0.06, rtol=1e-6
  )


def test_what_lies_nearer_to_the_reference_is_paid_more():
  near = make_batch(reference_logprobs=np.full((2, 4), -2.0, np.float32))
  far = make_batch(reference_logprobs=np.full((2, 4), -5.0, np.float32))
  found = [shaping.penalize(batch, kl.k1, 0.1).advantages[0, 1] for batch in (near, far)]
  assert found[0] > found[1]


def test_whitening_is_over_the_trained_tokens_of_the_whole_batch():
  settings = toy.make_config(whiten=True)
  settings.algo.kl_coef = 0.0
  mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=1, tensor=1), toy.jax.devices()[:1])
  learner = Learner(settings, toy.SIZE, mesh)
  other = make_batch(advantages=np.full((2, 4), 10.0, np.float32))
  batches = [learner.place(b) for b in (make_batch(), other)]
  first, second = learner.prepare(toy.make_params(), None, batches)
  # Weights 1, 1, 1, 0.5 of 1, 2, 4, 6, and of four times 10: 45 / 7 is the mean.
  values, weights = np.array([1, 2, 4, 6, 10, 10, 10, 10]), np.array([1, 1, 1, 0.5] * 2)
  mean = (values * weights).sum() / 7
  spread = np.sqrt((weights * (values - mean) ** 2).sum() / 7)
  np.testing.assert_allclose(first.advantages[0, 1:], (values[:3] - mean) / spread, rtol=1e-5)
  np.testing.assert_allclose(first.advantages[1, 2], (6 - mean) / spread, rtol=1e-5)
  np.testing.assert_allclose(second.advantages[0, 1:], (10 - mean) / spread, rtol=1e-5)


def test_equal_advantages_become_exactly_zero():
  batch = make_batch(advantages=np.full((2, 4), 0.3, np.float32))
  tokens, values, _ = shaping.total(batch, jnp.float32(0.0))
  mean = values / tokens
  variance = shaping.total(batch, mean)[2] / tokens
  found = shaping.standardize(batch, mean, variance).advantages
  np.testing.assert_allclose(found, 0.0, atol=1e-3)
