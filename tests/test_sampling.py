"""One token per row from one uniform number per row: the distribution, its edges, its log-prob."""

import jax
import numpy as np
import pytest

from jaxsearch.rollout import sampling

BELOW_ONE = np.float32(1) - np.float32(2**-24)
sample = jax.jit(sampling.sample)


def _draw(logits, uniforms, temperature=1.0):
  """Tokens and log-probs of one distribution for many uniform numbers, 100 at a time."""
  rows = np.broadcast_to(np.asarray(logits, np.float32), (100, len(logits)))
  temperatures = np.full(100, temperature, np.float32)
  padded = np.resize(np.asarray(uniforms, np.float32), (-(-len(uniforms) // 100), 100))
  drawn = [sample(rows, some, temperatures) for some in padded]
  return (np.concatenate(parts)[: len(uniforms)] for parts in zip(*drawn))


def _softmax(logits):
  weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
  return weights / weights.sum()


@pytest.mark.parametrize('vocab, temperature', [(2, 1.0), (256, 0.6), (300, 1.0), (1000, 0.6)])
def test_a_grid_of_uniforms_gives_softmax(vocab, temperature):
  """With (i + 1/2) / n every token comes p n times, give or take its two borders."""
  logits = np.random.default_rng(vocab).normal(0, 2, vocab)
  n = 20000
  tokens, _ = _draw(logits, (np.arange(n) + 0.5) / n, temperature)
  expected = n * _softmax(logits / temperature)
  counts = np.bincount(tokens, minlength=vocab)
  assert len(counts) == vocab
  assert np.abs(counts - expected).max() < 1.5
  assert np.sum((counts - expected) ** 2 / expected.clip(1)) < vocab  # Mean of chi-squared.
  assert (np.diff(tokens) >= 0).all()  # Inverse of a cumulative sum in the order of the ids.


def test_keys_give_softmax():
  """The same through the keys of rows and positions, within the noise of drawing."""
  logits = np.full(300, -np.inf)
  logits[100:140] = np.random.default_rng(1).normal(0, 1, 40)
  keys = np.random.default_rng(2).integers(0, 2**32, (50, 2), np.uint32)
  keys, positions = np.repeat(keys, 400, axis=0), np.tile(np.arange(400), 50)
  uniforms = np.asarray(sampling.uniform(keys, positions))
  assert len(np.unique(uniforms)) > 0.99 * len(uniforms)
  assert uniforms.min() >= 0 and uniforms.max() < 1
  tokens, _ = _draw(logits, uniforms)
  expected = len(uniforms) * _softmax(logits)
  counts = np.bincount(tokens, minlength=300)[100:140]
  assert counts.sum() == len(uniforms)
  chi2 = np.sum((counts - expected[100:140]) ** 2 / expected[100:140])
  assert chi2 < 39 + 5 * np.sqrt(2 * 39)


def test_uniform_is_a_function_of_the_rows_own_key_and_position():
  keys = np.random.default_rng(3).integers(0, 2**32, (6, 2), np.uint32)
  positions = np.arange(6)
  whole = np.asarray(sampling.uniform(keys, positions))
  for i in range(6):
    alone = np.asarray(sampling.uniform(keys[i : i + 1], positions[i : i + 1]))
    np.testing.assert_array_equal(alone, whole[i : i + 1])


@pytest.mark.parametrize('vocab', [2, 300])
def test_what_cannot_happen_is_never_drawn(vocab):
  """Nine tenths of the ids weigh nothing, the first and the last ones among them."""
  rng = np.random.default_rng(vocab)
  logits = rng.normal(0, 3, vocab)
  impossible = rng.random(vocab) < 0.9
  impossible[vocab // 4 : vocab // 2] = impossible[0] = True
  impossible[-1] = vocab > 2
  impossible[vocab // 2] = False
  logits[impossible] = -np.inf
  edges = np.cumsum(_softmax(logits)).astype(np.float32)
  near = [edges := rng.choice(edges, 100)]
  for _ in range(4):
    near += [np.nextafter(near[-1], np.float32(2)), np.nextafter(edges, np.float32(0))]
  ends = [0.0, np.float32(1e-45), BELOW_ONE]
  uniforms = np.concatenate([*near, ends, rng.random(500, np.float32)])
  tokens, logprobs = _draw(logits, uniforms.clip(0, BELOW_ONE))
  assert not impossible[tokens].any()
  assert np.isfinite(logprobs).all()


def test_sums_that_do_not_only_rise_choose_nothing_impossible():
  """Long sums are added up as a tree: rounding lets them rise at weights of 0, and fall."""
  rng = np.random.default_rng(8)
  weights = rng.random((4, 1200)).astype(np.float32) ** 8
  weights[rng.random(weights.shape) < 0.7] = 0
  weights[0, 900:] = weights[1, :300] = 0
  sums = np.asarray(jax.jit(lambda w: jax.numpy.cumsum(w, axis=-1))(weights))
  invert = jax.jit(jax.vmap(sampling._invert, in_axes=(None, 1)))
  indices, rest = map(np.asarray, invert(weights, np.nextafter(sums, np.float32(0))))
  indices_at, rest_at = map(np.asarray, invert(weights, sums))
  assert (weights[np.arange(4), indices] > 0).all()
  assert (weights[np.arange(4), indices_at] > 0).all()
  assert (rest >= 0).all() and (rest_at >= 0).all()


def test_the_ends_of_the_interval_are_the_first_and_the_last_token():
  tokens, _ = _draw([0.0] * 300, [0.0, BELOW_ONE])
  np.testing.assert_array_equal(tokens, [0, 299])


@pytest.mark.parametrize('temperature', [1.0, 0.3, 1.7])
def test_the_log_probability_is_that_of_the_distribution_drawn_from(temperature):
  logits = np.random.default_rng(4).normal(0, 4, 1000)
  tokens, logprobs = _draw(logits, np.random.default_rng(5).random(400), temperature)
  expected = np.log(_softmax(logits / temperature))[tokens]
  np.testing.assert_allclose(logprobs, expected, atol=3e-6, rtol=1e-6)


def test_greedy_takes_the_largest_and_says_its_log_probability():
  """At temperature 0, whatever the uniform number; the first of equals."""
  logits = np.random.default_rng(6).normal(0, 1, 300)
  logits[[77, 201]] = 9.0
  tokens, logprobs = _draw(logits, np.linspace(0, BELOW_ONE, 50), temperature=0.0)
  assert set(tokens) == {77}
  np.testing.assert_allclose(logprobs, np.log(_softmax(logits))[77], atol=1e-6)


def test_rows_do_not_meet():
  """Each row its own logits, number and temperature, greedy or not."""
  rng = np.random.default_rng(7)
  logits = rng.normal(0, 2, (100, 300)).astype(np.float32)
  uniforms = rng.random(100, np.float32)
  temperatures = np.resize(np.array([0, 1, 0.5, 2], np.float32), 100)
  tokens, logprobs = map(np.asarray, sample(logits, uniforms, temperatures))
  for i in range(6):
    alone = list(_draw(logits[i], uniforms[i : i + 1], temperatures[i]))
    assert (tokens[i], logprobs[i]) == (alone[0][0], alone[1][0])


def test_large_logits_do_not_overflow():
  tokens, logprobs = _draw([1e4, 1e4 - 1] + [-1e4] * 298, np.linspace(0, BELOW_ONE, 100))
  assert set(tokens) == {0, 1}
  assert np.isfinite(logprobs).all()
