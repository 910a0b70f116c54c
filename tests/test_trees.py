"""Trees: rollouts that begin as one and part at their searches."""

import jax
import jax.numpy as jnp
import numpy as np
import policies
import pytest

from jaxsearch import config
from jaxsearch.algo import logprobs
from jaxsearch.models import decoder
from jaxsearch.retrieval.pool import Pool
from jaxsearch.types import Kind, Status, row_id

TEXTS = ['amber?', 'where is birch', 'so', 'which of these words is the longest of all', 'kelp']
SAMPLES = 4


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  return policies.random_policy(tmp_path_factory.mktemp('trees'))


@pytest.fixture(scope='module')
def actor(policy, tmp_path_factory):
  return policies.make_actor(policy, tmp_path_factory.mktemp('prompt'), leaves=SAMPLES)


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
  index = policies.build_index(tmp_path_factory.mktemp('index'))
  with Pool(config.Retrieval(index=str(index))) as pool:
    yield pool


@pytest.fixture(scope='module')
def done(actor, pool):
  tasks = policies.make_tasks(TEXTS, samples=SAMPLES)
  return actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0)


def policy_segments(trajectory):
  return [s for s in trajectory.contexts[0].segments if s.kind is Kind.POLICY]


def test_every_rollout_is_made_and_those_of_a_tree_share_their_beginning(done):
  assert [(t.task.position, t.task.sample) for t in done] == [
    (p, s) for p in range(len(TEXTS)) for s in range(SAMPLES)
  ]
  by_row = {(t.task.position, row_id(t.task.sample, t.attempt)): t for t in done}
  shared = 0
  for t in done:
    owners, own = t.contexts[0].owners, row_id(t.task.sample, t.attempt)
    assert len(owners) == len(policy_segments(t)) and owners[-1] == own
    for k, owner in enumerate(owners):
      if owner != own:
        shared += 1
        other = by_row[t.task.position, owner]
        assert other.contexts[0].owners[: k + 1] == owners[: k + 1]
        # The segment, its log-probabilities and what the search found are the very same.
        for mine, theirs in zip(policy_segments(t)[: k + 1], policy_segments(other)[: k + 1]):
          assert mine is theirs
        assert t.turns[k] is other.turns[k]
  assert shared > 5


def test_rollouts_of_a_tree_part_where_they_branch(done):
  """Their own randomness makes different texts of the same beginning."""
  parted = [t for t in done if len(set(t.contexts[0].owners)) > 1]
  for t in parted:
    first = t.contexts[0].owners[0]
    other = next(o for o in done if o.task.position == t.task.position and o.task.sample == first)
    assert not np.array_equal(t.contexts[0].ids, other.contexts[0].ids)


def test_log_probabilities_behind_a_branch_are_the_learners(policy, done):
  _, size, params = policy

  @jax.jit
  def forward(tokens):
    x = decoder.hidden(params, size, tokens, dtype=jnp.float32, scan=False)
    head = decoder.unembedding(params, size)
    return logprobs.token_logprobs(x, head, tokens, temperature=1.0, chunk=64)[0]

  for t in [t for t in done if len(set(t.contexts[0].owners)) > 1]:
    (context,) = t.contexts
    found = forward(jnp.asarray(np.pad(context.ids, (0, 128 - context.length)))[None])
    mask = context.sampled_mask
    np.testing.assert_allclose(
      np.asarray(found)[0, : context.length][mask], context.logprobs[mask], atol=3e-5
    )


@pytest.mark.parametrize('position', range(len(TEXTS)))
def test_company_and_slots_change_no_bit(actor, pool, done, position):
  """Alone in the engine, other slots are free when a row branches; the bits are the same."""
  tasks = [t.task for t in done if t.task.position == position]
  alone = actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0)
  together = [t for t in done if t.task.position == position]
  assert policies.bits(alone) == policies.bits(together)


@pytest.mark.parametrize('slots', [1, 2])
def test_few_slots_are_enough(policy, pool, done, tmp_path, slots):
  """A branch that finds no free slot waits, and takes the place of what it branched from."""
  actor = policies.make_actor(policy, tmp_path, leaves=SAMPLES, slots=slots)
  tasks = [t.task for t in done]
  found = actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0)
  same = [
    [(s.kind, s.ids.tolist()) for s in t.contexts[0].segments]
    == [(s.kind, s.ids.tolist()) for s in other.contexts[0].segments]
    for t, other in zip(found, done)
  ]
  # Another shape of the decode program may round a draw differently, but seldom does.
  assert sum(same) >= len(same) - 2


def test_fewer_tokens_are_generated_than_trained_rows_hold(done):
  of_rows = {}
  for t in done:
    parts = zip(policy_segments(t), t.contexts[0].owners, strict=True)
    for place, (segment, owner) in enumerate(parts):
      of_rows[t.task.position, owner, place] = len(segment.ids)
  generated = sum(t.generated for t in done)
  assert generated == sum(of_rows.values())
  held = sum(len(s.ids) for t in done for s in policy_segments(t))
  assert generated < held
  assert all(t.status is not Status.INFRA for t in done)
