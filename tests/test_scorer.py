"""Forced continuations equal the learner's log-probabilities, however they are asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import policies
import pytest

from jaxsearch import config
from jaxsearch.algo import logprobs
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rewards._contract import ScoreRequest
from jaxsearch.types import Kind, UserError

TEXTS = ['amber?', 'where is birch', 'so', 'which of these words is the longest of all']
TOLERANCE = 2e-5


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(actor, policy, trajectories with searches) of a random policy."""
  folder = tmp_path_factory.mktemp('scorer')
  policy = policies.random_policy(folder)
  actor = policies.make_actor(policy, folder)
  index = policies.build_index(folder)
  with Pool(config.Retrieval(index=str(index))) as pool:
    done = actor.rollout(policies.make_tasks(TEXTS, samples=4), pool=pool, top_k=1, temperature=1.0)
  assert sum(len(t.turns) for t in done) > 4
  return actor, policy, done


def requests_for(trajectories):
  """Every part of every rollout, with two continuations and a replaced observation."""
  found = []
  for i, t in enumerate(trajectories):
    (context,) = t.contexts
    for turns in range(len(t.turns) + 1):
      found.append(ScoreRequest(i, turns, ' lead', ' amber birch'))
      if sum(len(s.ids) for s in context.segments) < 70:
        found.append(ScoreRequest(i, turns, '', 'a text of two chunks'))
    if t.turns and t.turns[-1].segment < len(context.segments):
      found.append(ScoreRequest(i, len(t.turns), ' lead', ' amber birch', 'something else'))
  return found


@functools.partial(jax.jit, static_argnames='size')
def forward(params, size, tokens_BT):
  """log p of every token by the learner's functions."""
  x_BTD = decoder.hidden(params, size, tokens_BT, dtype=jnp.float32, scan=False)
  head = decoder.unembedding(params, size)
  return logprobs.token_logprobs(x_BTD, head, tokens_BT, temperature=1.0, chunk=64)[0]


def expected(policy, trajectory, request):
  """The same by one forward pass of the learner's functions over the whole sequence."""
  tokenizer, size, params = policy
  (context,) = trajectory.contexts
  last = context.turns[request.turns - 1].segment if request.turns else 0
  kept = [s.ids for s in context.segments[: last + 1]]
  if request.observation is not None:
    assert context.segments[last].kind is Kind.OBSERVATION
    kept[-1] = tokenizer.encode(request.observation)
  text = tokenizer.encode(request.text)
  ids = np.concatenate([*kept, tokenizer.encode(request.lead), text])
  T = 256  # One shape for all; what is padded is not looked at.
  found = forward(params, size, jnp.asarray(np.pad(ids, (0, T - len(ids))))[None])
  return np.asarray(found)[0, len(ids) - len(text) : len(ids)]


def test_forced_texts_have_the_learners_log_probabilities(made):
  actor, policy, done = made
  requests = requests_for(done)
  found = actor._scorer.score(done, requests)
  assert len(found) == len(requests) > 2 * len(done)
  for request, values in zip(requests, found):
    assert values.dtype == np.float32
    wanted = expected(policy, done[request.rollout], request)
    np.testing.assert_allclose(values, wanted, atol=TOLERANCE, err_msg=str(request))


def test_the_order_of_the_requests_changes_nothing(made):
  actor, _, done = made
  requests = requests_for(done)
  order = np.random.default_rng(0).permutation(len(requests))
  found = actor._scorer.score(done, requests)
  again = actor._scorer.score(done, [requests[i] for i in order])
  for place, i in enumerate(order):
    np.testing.assert_allclose(again[place], found[i], atol=TOLERANCE)


def test_scoring_leaves_the_next_rollout_alone(made):
  """Cache and row states are the engine's own; nothing of a score stays in them."""
  actor, policy, done = made
  folder_tasks = policies.make_tasks(TEXTS[:2], samples=2, step=5)
  searching = [t for t in done if t.turns][:1]
  actor._scorer.score(searching, [ScoreRequest(0, 1, '', ' amber')])
  with_scores, plain = [], []
  for into in (with_scores, plain):
    with Pool(config.Retrieval(backend='none')) as pool:
      into += actor.rollout(folder_tasks, pool=pool, top_k=1, temperature=1.0)
    actor._scorer.score(searching, [ScoreRequest(0, 1, '', ' amber')] if into is plain else [])
  assert policies.bits(with_scores) == policies.bits(plain)


def test_a_reward_may_ask_the_engine(made, monkeypatch):
  """All questions together; each is sent the answers to its own requests, as often as it asks."""
  actor, policy, done = made
  heard = {}

  def reward(question, responses, protocol):
    first = yield [ScoreRequest(i, 0, '', ' amber') for i in range(len(responses))]
    second = yield [ScoreRequest(len(responses) - 1, 0, '', f' {question.id}')]
    heard[question.id] = (first, second)
    return [{'reward': float(values.sum())} for values in first]

  monkeypatch.setattr(actor, '_reward', reward)
  groups = [done[i : i + 4] for i in range(0, len(done), 4)]
  rows = actor._judge(groups)
  for group, found in zip(groups, rows):
    wanted = [expected(policy, t, ScoreRequest(0, 0, '', ' amber')) for t in group]
    np.testing.assert_allclose(
      [row['reward'] for row in found], [w.sum() for w in wanted], atol=1e-4
    )
    name = group[0].task.question.id
    (own,) = heard[name][1]
    wanted = expected(policy, group[-1], ScoreRequest(0, 0, '', f' {name}'))
    np.testing.assert_allclose(own, wanted, atol=TOLERANCE)


def test_what_the_cache_has_no_room_for_is_refused(made):
  actor, _, done = made
  with pytest.raises(UserError, match='room for 96. Shorten what'):
    actor._scorer.score(done, [ScoreRequest(0, 0, '', 'too long ' * 40)])


def test_no_request_is_no_work(made):
  actor, _, done = made
  assert actor._scorer.score(done, []) == []
  assert dataclasses.asdict(ScoreRequest(0, 0, '', 'x'))['observation'] is None
