"""Further terms of the loss: numbers by hand, what they must not see, what must not change them."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import learner_worker as toy
import numpy as np
import pytest

from jaxsearch import config, plugins, sharding
from jaxsearch.algo import objective, terms
from jaxsearch.learner import Learner
from jaxsearch.types import UserError

LN2 = float(np.log(2.0))
NAMES = sorted(
  name
  for name, value in vars(terms).items()
  if inspect.isfunction(value) and value.__module__ == terms.__name__ and name[0] != '_'
)
NORMS = ('token', 'sequence', 'constant')


def algo_of(name, weight=0.5, **algo):
  return config.Algo(terms=f'{name}={weight}', **algo)


def means(algo, logprobs, batch, entropies=None):
  """(loss, metrics) of one micro-batch that is the whole update."""
  made = objective.Objective(algo, 10)
  entropies = jnp.zeros_like(logprobs) if entropies is None else entropies
  return made.loss(logprobs, entropies, batch, made.denominators(batch))


def batch_of(advantages, old, kept):
  """Rows whose first token is the prompt."""
  shape = np.shape(advantages)
  return objective.Batch(
    tokens=jnp.zeros(shape, jnp.int32),
    lengths=jnp.full(shape[0], shape[1]),
    loss_mask=jnp.array(kept),
    sampler_logprobs=jnp.array(old),
    advantages=jnp.array(advantages),
    weights=jnp.ones(shape[0]),
  )


def hand_batch():
  """(logprobs, batch): two rows of advantages 0.5, 0, 2 and -1, 3, of which the last is masked."""
  logprobs = jnp.array([[0.0, -1.0, -2.0, -3.0], [0.0, -4.0, -5.0, 0.0]])
  kept = [[False, True, True, True], [False, True, False, False]]
  advantages = [[9.0, 0.5, 0.0, 2.0], [9.0, -1.0, 3.0, 3.0]]
  return logprobs, batch_of(advantages, [[-3.0] * 4] * 2, kept)


@pytest.mark.parametrize(
  # Over two positive tokens of one row; of which half each; over one row of at most ten tokens.
  ('norm', 'mean'),
  [('token', 2.0), ('sequence', 2.0), ('constant', 0.4)],
)
def test_positive_likelihood_by_hand(norm, mean):
  logprobs, batch = hand_batch()
  plain, _ = means(config.Algo(loss_norm=norm), logprobs, batch)
  loss, sums = means(algo_of('positive_likelihood', loss_norm=norm), logprobs, batch)
  np.testing.assert_allclose(sums['actor/term/positive_likelihood'], mean, rtol=1e-6)
  np.testing.assert_allclose(loss - plain, 0.5 * mean, rtol=1e-5)


def test_positive_likelihood_pulls_at_positive_tokens_alone():
  logprobs, batch = hand_batch()
  loss = lambda weight: lambda x: means(algo_of('positive_likelihood', weight), x, batch)[0]
  difference = jax.grad(loss(3.0))(logprobs) - jax.grad(loss(1.0))(logprobs)
  np.testing.assert_allclose(difference, [[0, -1, 0, -1], [0] * 4], rtol=1e-6)


def test_kl_to_old_by_hand():
  # Ratios 2, 1/2 and 1 in the first row, 1/2 in the second.
  logprobs = jnp.array([[0.0, LN2 - 3, -LN2 - 3, -3.0], [0.0, -LN2 - 3, 7.0, 7.0]])
  _, batch = hand_batch()
  batch = dataclasses.replace(batch, advantages=jnp.zeros((2, 4)))
  loss, sums = means(algo_of('kl_to_old'), logprobs, batch)
  mean = (2 - LN2 - 1 + 2 * (0.5 + LN2 - 1)) / 4
  np.testing.assert_allclose(sums['actor/term/kl_to_old'], mean, rtol=1e-5)
  np.testing.assert_allclose(loss, 0.5 * mean, rtol=1e-5)
  # Rows without advantage are pulled all the same: r - 1 for each of four tokens, times one half.
  gradient = jax.grad(lambda x: means(algo_of('kl_to_old'), x, batch)[0])(logprobs)
  expected = [[0, 1 / 8, -1 / 16, 0], [0, -1 / 16, 0, 0]]
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


def test_kl_to_old_is_never_negative_and_estimates_the_kl_of_old_and_new():
  old, new = jax.nn.log_softmax(jnp.array([[0.3, -0.5, 1.1], [0.0, 0.4, -0.2]]))
  zeros, kept = jnp.zeros((1, 3)), jnp.ones((1, 3), bool)
  values, _ = terms.kl_to_old(terms.Outputs(new[None], zeros, old[None], zeros, None, kept))
  assert (np.asarray(values) >= 0).all()
  np.testing.assert_allclose(
    jnp.sum(jnp.exp(old) * values[0]), jnp.sum(jnp.exp(old) * (old - new)), rtol=1e-5
  )


def poisoned():
  """(mask, clean log-probabilities and entropies, batch, the same poisoned where not trained)."""
  batch = toy.make_batch(1, 4, 9)
  mask = np.asarray(objective.kept(batch)[0])
  rng = np.random.default_rng(5)
  clean = [rng.normal(-4, 0.4, mask.shape).astype(np.float32) for _ in range(2)]
  poison = np.resize([np.nan, np.inf, -np.inf, 1e30], mask.shape).astype(np.float32)
  read = ('sampler_logprobs', 'advantages', 'reference_logprobs')
  changes = {field: np.where(mask, getattr(batch, field), poison) for field in read}
  dirty = dataclasses.replace(batch, **changes)
  return mask, clean, batch, [np.where(mask, c, poison) for c in clean], dirty


def test_a_term_sees_nothing_of_what_is_masked():
  mask, _, _, found, dirty = poisoned()
  for old in (None, dirty.sampler_logprobs):
    outputs = objective._outputs(dataclasses.replace(dirty, old_logprobs=old), *found)
    for name, values in vars(outputs).items():
      assert not np.asarray(values)[~mask].any(), name


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('norm', NORMS)
def test_what_is_masked_may_be_anything_and_has_no_gradient(name, norm):
  algo = algo_of(name, loss_norm=norm, kl_coef=0.3, entropy_coef=0.1)
  mask, clean, batch, found, dirty = poisoned()
  loss = lambda logprobs, entropies, batch: means(algo, logprobs, batch, entropies)
  value = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  one, other = value(*clean, batch), value(*found, dirty)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert all((np.asarray(gradient)[~mask] == 0).all() for gradient in other[1])
  assert np.isfinite(other[0][0])


@pytest.mark.parametrize('name', NAMES)
def test_the_tokens_of_a_term_are_known_before_log_probabilities_are(name):
  rng = np.random.default_rng(2)
  logprobs, entropies, old, advantages = rng.normal(size=(4, 3, 5)).astype(np.float32)
  kept = rng.random((3, 5)) < 0.7
  term = getattr(terms, name)
  _, over = term(terms.Outputs(logprobs, entropies, old, advantages, None, kept))
  _, again = term(terms.Outputs(0 * logprobs, 0 * entropies, old, advantages, None, kept))
  np.testing.assert_array_equal(over, again)
  assert over.dtype == bool and over.shape == kept.shape


def make_learner(text, **algo):
  settings = toy.make_config(terms=text, **algo)
  settings.algo.kl_coef = settings.algo.entropy_coef = 0.0
  return Learner(settings, toy.SIZE, sharding.make_mesh(config.Mesh(), jax.devices()[:1]))


def update(learner, batches, counted=()):
  state = learner.init_state(toy.make_params())
  place = lambda some: [learner.place(batch) for batch in some]
  state, metrics = learner.update(state, place(batches), place(counted))
  return jax.tree.map(np.asarray, state.params), metrics


@pytest.mark.parametrize('norm', NORMS)
def test_cut_into_micro_batches_they_are_the_same(norm):
  learner = make_learner('positive_likelihood=0.7,kl_to_old=-0.4', loss_norm=norm)
  batch = toy.make_batch(3, 6, 12)
  # A micro-batch without a positive token, and others with unequal numbers of them.
  batch.advantages[:2] = -np.abs(batch.advantages[:2])
  parts = [jax.tree.map(lambda leaf, p=p: leaf[p], batch) for p in ([0, 1], [2], [3, 4, 5])]
  params, metrics = update(learner, [batch])
  found, found_metrics = update(learner, parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, found)
  assert found_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)
  assert metrics['actor/term/positive_likelihood'] > 0 and metrics['actor/term/kl_to_old'] > 0


def test_rows_that_only_count_enter_the_denominators_of_terms():
  learner = make_learner('positive_likelihood=0.7,kl_to_old=0.4')
  batch = toy.make_batch(3, 6, 12)
  zero = dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))
  _, alone = update(learner, [batch])
  _, beside = update(learner, [batch], [zero])
  ratio = {name: beside[f'actor/{name}'] / alone[f'actor/{name}'] for name in ('pg_loss', *TERMS)}
  assert ratio == pytest.approx(dict(zip(ratio, (0.5, 1.0, 0.5))), rel=1e-5)


TERMS = ('term/positive_likelihood', 'term/kl_to_old')


def test_nothing_compiles_after_compile():
  learner = make_learner('positive_likelihood=0.7,kl_to_old=0.4')
  batch = learner.place(dataclasses.replace(toy.make_batch(0, 4, 9), reference_logprobs=None))
  state = learner.init_state(toy.make_params())
  learner.compile([batch])
  seen = []
  listener = lambda event, _, **__: seen.append(event) if 'backend_compile' in event else None
  jax.monitoring.register_event_duration_secs_listener(listener)
  learner.update(state, learner.prepare(state.params, None, [batch]))
  assert not seen


def test_weights_are_read_in_order():
  assert plugins.weights('') == plugins.weights(' ') == {}
  assert plugins.weights('b=0.1, a = -2e-1') == {'b': 0.1, 'a': -0.2}


@pytest.mark.parametrize(
  'text', ['a', 'a=', 'a=0', 'a=nan', 'a=inf', '=1', 'a=1,a=2', 'a=1,', 'a:1']
)
def test_weights_of_another_form_are_refused(text):
  with pytest.raises(UserError, match='is not NAME=WEIGHT'):
    plugins.weights(text)
  with pytest.raises(UserError, match='is not NAME=WEIGHT'):
    objective.Objective(config.Algo(terms=text), 5)
