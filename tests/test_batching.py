"""From trajectories to micro-batches: what is trained, with which padding, on which host."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from jaxsearch import batching, config, microbatches
from jaxsearch.algo.summary import Summary
from jaxsearch.types import (
  Context,
  Kind,
  Question,
  Segment,
  Span,
  Status,
  Task,
  Trajectory,
  UserError,
)

QUESTION = Question('q', 'Why?', ('a',))


def _context(rng, prompt, *written):
  """Policy segments of the given lengths with an observation of 3 ids between them."""
  segments = [Segment(Kind.PROMPT, rng.integers(1, 99, prompt).astype(np.int32))]
  for i, length in enumerate(written):
    if i:
      segments.append(Segment(Kind.OBSERVATION, rng.integers(1, 99, 3).astype(np.int32)))
    ids = rng.integers(1, 99, length).astype(np.int32)
    segments.append(Segment(Kind.POLICY, ids, -rng.random(length).astype(np.float32)))
  return Context(tuple(segments), owners=(0,) * len(written))


def _step(shapes, lost=(), host_of=lambda position: 0, seed=0):
  """(trajectories, summaries, advantages): shapes are (prompt, *written) by position."""
  rng = np.random.default_rng(seed)
  done, summaries, advantages = [], [], []
  for position, shape in enumerate(shapes):
    context = _context(rng, *shape)
    is_infra = position in lost
    status = Status.INFRA if is_infra else Status.EOS
    done.append(Trajectory(Task(QUESTION, position, 0, 3), status, (context,)))
    policy = context.count(Kind.POLICY)
    written = tuple(len(s.ids) for s in context.segments if s.kind is Kind.POLICY)
    summaries.append(
      Summary(
        position, 0, {}, status, written, context.owners, 0, context.length, host_of(position)
      )
    )
    value = 0.0 if is_infra else (position % 3 - 1) * (1 + position)
    advantages.append(np.full(policy, value, np.float32))
  return done, summaries, advantages


def _config(**algo):
  made = config.Config(algo=config.Algo(**algo))
  made.learner = config.Learner(buckets=(8, 16, 32), tokens_per_microbatch=64)
  return made


ONE = batching.Place(host=0, hosts=1, shards=1)
SHAPES = [(3, 4), (2, 3, 5), (5, 20), (3, 2), (4, 1, 1), (2, 9), (1, 6), (3, 0)]


def _rows(batches):
  """Every row that is not filler, cut to its length: (ids, mask, advantages, logprobs)."""
  found = []
  for batch in batches:
    for i, length in enumerate(batch.lengths):
      if length:
        arrays = (batch.tokens, batch.loss_mask, batch.advantages, batch.sampler_logprobs)
        found.append(tuple(array[i, :length] for array in arrays))
  return found


@pytest.mark.parametrize(
  ('needs_all', 'algo'),
  [
    (False, {}),
    (True, {'entropy_coef': 0.1}),
    (True, {'kl_coef': 0.1}),
    (True, {'whiten': True}),
    (True, {'terms': 'kl_to_old=0.1'}),
  ],
)
def test_every_trajectory_is_in_one_row_with_its_own_advantages(needs_all, algo):
  done, summaries, advantages = _step(SHAPES, lost=(3,))
  settings = _config(**algo)
  ((trained, counted),) = batching.updates(done, summaries, advantages, settings, ONE)
  for rows, is_trained in ((_rows(trained), True), (_rows(counted), False)):
    expected = [
      (t.contexts[0], values)
      for t, values in zip(done, advantages)
      if not t.is_infra and bool(needs_all or values.any()) == is_trained
    ]
    assert len(rows) == len(expected)
    for context, values in expected:
      ids, mask, row_values, logprobs = next(r for r in rows if np.array_equal(r[0], context.ids))
      np.testing.assert_array_equal(mask, context.sampled_mask)
      np.testing.assert_array_equal(row_values[mask], values)
      np.testing.assert_array_equal(logprobs, context.logprobs)
      assert not row_values[~mask].any()
  assert bool(counted) != needs_all


def test_observations_can_be_trained_too():
  done, summaries, advantages = _step(SHAPES)
  settings = _config(loss_tokens='all', entropy_coef=0.1)
  ((trained, _),) = batching.updates(done, summaries, advantages, settings, ONE)
  for ids, mask, values, _ in _rows(trained):
    context, own = next(
      (t.contexts[0], a) for t, a in zip(done, advantages) if np.array_equal(t.contexts[0].ids, ids)
    )
    kinds = np.concatenate([np.full(len(s.ids), s.kind, object) for s in context.segments])
    np.testing.assert_array_equal(mask, kinds != Kind.PROMPT)
    assert len(own) == 0 or set(values[mask]) == {own[0]}


def _on_all_hosts(step, settings, hosts, shards):
  """(updates of each host, sets of the rows that each sent): every host in a thread of its own."""
  done, summaries, advantages = step
  meeting, sent, found = threading.Barrier(hosts), [None] * hosts, [None] * hosts

  def work(host):
    def gather(value):
      sent[host] = value
      meeting.wait(10)
      return list(sent)

    own = [t for t, s in zip(done, summaries) if s.host == host]
    place = batching.Place(host, hosts, shards)
    found[host] = batching.updates(own, summaries, advantages, settings, place, gather=gather)

  threads = [threading.Thread(target=work, args=(host,)) for host in range(hosts)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found, sent


@pytest.mark.parametrize('hosts', [1, 2, 4])
@pytest.mark.parametrize('shards', [4, 8])
@pytest.mark.parametrize('pack', [1, 3])
def test_hosts_agree_on_number_and_shapes_and_share_the_rows(hosts, shards, pack):
  shapes = SHAPES * 3
  step = _step(shapes, host_of=lambda position: position * hosts // len(shapes))
  settings = _config()
  settings.learner.pack = pack
  found, _ = _on_all_hosts(step, settings, hosts, shards)
  plans = [[[b.tokens.shape for b in part] for part in parts] for (parts,) in found]
  rows = [row for (parts,) in found for row in _rows(itertools.chain(*parts))]
  assert all(plan == plans[0] for plan in plans)
  shapes_seen = {shape for part in plans[0] for shape in part}
  warm = batching.empty(settings.learner, batching.Place(0, hosts, shards))
  assert shapes_seen <= {batch.tokens.shape for batch in warm}
  assert all(rows // pack * hosts % shards == 0 for rows, _ in shapes_seen)
  # Contexts that share a row fit into it together.
  for batch in itertools.chain(*(part for (parts,) in found for part in parts)):
    assert (batch.lengths.reshape(-1, pack).sum(axis=1) <= batch.tokens.shape[1]).all()
  wanted = sorted(t.contexts[0].ids.tolist() for t in step[0])
  assert sorted(row[0].tolist() for row in rows) == wanted


def test_hosts_with_longer_rollouts_hand_rows_over():
  """Eight long rows on one host, eight short ones on the other: four and four on each."""
  step = _step([(2, 30 - position % 2) if position < 8 else (2, 3) for position in range(16)])
  even, uneven = (
    (step[0], [dataclasses.replace(s, host=host_of(s.position)) for s in step[1]], step[2])
    for host_of in (lambda position: position % 2, lambda position: position // 8)
  )
  settings = _config(entropy_coef=0.1)
  for (done, summaries, advantages), moves in ((even, 0), (uneven, 8)):
    found, sent = _on_all_hosts((done, summaries, advantages), settings, hosts=2, shards=2)
    ((first, _),), ((second, _),) = found
    # Rows of 32 and of 8 tokens; a micro-batch has 64 tokens.
    assert [b.tokens.shape for b in first] == [(1, 32)] * 4 + [(4, 8)]
    assert [int((b.lengths > 8).sum()) for b in first + second] == [1, 1, 1, 1, 0] * 2
    assert sum(len(own or {}) for own in sent) == moves
    masked = {row[0].tobytes(): row[1:] for row in _rows(first + second)}
    assert len(masked) == 16
    for t, values in zip(done, advantages):
      mask, row_values, logprobs = masked[t.contexts[0].ids.tobytes()]
      np.testing.assert_array_equal(mask, t.contexts[0].sampled_mask)
      np.testing.assert_array_equal(row_values[mask], values)
      np.testing.assert_array_equal(logprobs, t.contexts[0].logprobs)


def test_a_host_without_rows_packs_those_of_others_and_fillers():
  step = _step(SHAPES, lost=range(4, 8), host_of=lambda position: position // 4)
  found, sent = _on_all_hosts(step, _config(), hosts=2, shards=2)
  parts = [parts for (parts,) in found]
  counts = [len(_rows(itertools.chain(*part))) for part in parts]
  assert sum(counts) == 4 and counts[1] == len(sent[0]) and not sent[1]
  for mine, other in zip(parts[0], parts[1], strict=True):
    assert [b.tokens.shape for b in mine] == [b.tokens.shape for b in other]
  filled = [batch for part in parts[1] for batch in part if not batch.lengths.any()]
  assert filled and not any(batch.weights.any() or batch.loss_mask.any() for batch in filled)


def test_nothing_to_learn_is_no_microbatch():
  done, summaries, advantages = _step([(2, 3)] * 2, lost=(0, 1))
  assert batching.updates(done, summaries, advantages, _config(), ONE) == [([], [])]


@pytest.mark.parametrize('hosts', [1, 2])
def test_several_updates_share_the_questions_and_cut_none(hosts):
  # Eight questions of two rollouts each, shared by the hosts in stretches.
  shapes = [(2, 3 + i) for i in range(8)] * 2
  done, summaries, advantages = _step(shapes, host_of=lambda position: position * hosts // 16)
  summaries = [dataclasses.replace(s, position=s.position // 2) for s in summaries]
  settings = _config(updates_per_batch=2, entropy_coef=0.1)
  seen = []
  for cut in _on_all_hosts((done, summaries, advantages), settings, hosts, shards=hosts)[0]:
    assert len(cut) == 2
    seen.append([{row[0].tobytes() for row in _rows(update.trained)} for update in cut])
  for number in (0, 1):
    expected = {
      t.contexts[0].ids.tobytes()
      for t, s in zip(done, summaries)
      if s.position % (8 // hosts) * 2 // (8 // hosts) == number
    }
    assert set().union(*(updates[number] for updates in seen)) == expected


def test_what_rollouts_share_is_trained_in_the_row_that_sampled_it():
  done, summaries, advantages = _step([(2, 3, 4), (2, 3, 4)])
  own = [(0, 0), (0, 1)]  # The second begins with the first one's segment.
  summaries = [
    dataclasses.replace(s, position=0, sample=i, owners=own[i]) for i, s in enumerate(summaries)
  ]
  settings = _config(entropy_coef=0.1)
  ((trained, _),) = batching.updates(done, summaries, advantages, settings, ONE)
  masks = {ids.tobytes(): mask for ids, mask, _, _ in _rows(trained)}
  first, second = (masks[t.contexts[0].ids.tobytes()] for t in done)
  np.testing.assert_array_equal(first, [False] * 2 + [True] * 3 + [False] * 3 + [True] * 4)
  np.testing.assert_array_equal(second, [False] * 8 + [True] * 4)
  # If the one that sampled it is not trained, the next one trains it.
  ((trained, _),) = batching.updates(done, summaries, [None, advantages[1]], settings, ONE)
  ((_, alone, _, _),) = _rows(trained)
  np.testing.assert_array_equal(alone, first)


def test_spans_of_a_name_may_be_left_out():
  done, summaries, advantages = _step([(2, 5, 4)])
  (context,) = done[0].contexts
  spans = (Span('information', 3, 0, 9, 1, 3), Span('think', 1, 0, 9, 0, 5))
  done = [dataclasses.replace(done[0], contexts=(dataclasses.replace(context, spans=spans),))]
  settings = _config(entropy_coef=0.1, untrained_span='information')
  ((trained, _),) = batching.updates(done, summaries, advantages, settings, ONE)
  ((_, mask, _, _),) = _rows(trained)
  own = [True] * 5 + [False] * 3 + [True, False, False, True]
  np.testing.assert_array_equal(mask, [False] * 2 + own)


def test_what_is_not_selected_is_in_no_batch():
  done, summaries, advantages = _step(SHAPES)
  advantages = [None if i % 2 else values for i, values in enumerate(advantages)]
  ((trained, counted),) = batching.updates(done, summaries, advantages, _config(), ONE)
  found = {row[0].tobytes() for row in _rows([*trained, *counted])}
  assert found == {t.contexts[0].ids.tobytes() for t in done[::2]}


def test_rows_share_a_bucket_in_their_own_order():
  learner = config.Learner(buckets=(8, 16, 32), tokens_per_microbatch=32)
  lengths = dict(enumerate([3, 30, 8, 9, 7, 2, 16]))
  cuts = microbatches.plan([lengths], learner, shards=1)
  assert [(cut.bucket, cut.rows, tuple(i for ((_, i),) in cut.members[0])) for cut in cuts] == [
    (32, 1, (1,)),
    (16, 2, (3, 6)),
    (8, 4, (0, 2, 4, 5)),
  ]


def test_a_row_that_fits_nowhere_is_told():
  with pytest.raises(UserError, match='a row of 33 tokens'):
    microbatches.plan([{0: 3}, {0: 33}], _config().learner, shards=1)
