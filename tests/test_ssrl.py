"""Self-search: one generation, the policy's own information in it, and what of it is trained."""

import dataclasses

import numpy as np
import policies
import pytest
import tiny

from jaxsearch import batching, config, metrics, plugins, warmstart
from jaxsearch.retrieval.pool import Pool
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.training_run import Run
from jaxsearch.types import Kind, Status

EOS = policies.EOS
# Tokens that begin or end inside a tag, recall twice the same, run over lines, or never close.
SCRIPTS = {
  '!': [
    *('<think> a </think>\n<search> b </search>\n<information>', ' birch', ' oak\n', 'fir '),
    *('</information>', '\n<think> a </think>\n<sea', 'rch> b </search><informa', 'tion> birch'),
    *(' oak\nfir </infor', 'mation><answer> birch', ' </answer>', EOS),
  ],
  '@': ['<think> birch </think>', '<answer> birch oak </answer>', EOS],
  '&': ['<think> a </think>', '<information>', ' birch', ' oak', EOS],
  '|': ['<information></information>', '<answer> birch </answer>', EOS],
}
PIECES = {
  marker: [piece if piece is EOS else piece.encode() for piece in script]
  for marker, script in SCRIPTS.items()
}
# Which of these tokens, the end of text among them, hold a byte of information.
INSIDE = {'!': [1, 2, 3, 7, 8], '@': [], '&': [], '|': []}
ONE = batching.Place(host=0, hosts=1, shards=1)


@pytest.fixture(name='scripted', scope='module')
def _scripted(tmp_path_factory):
  """Marker -> trajectory of a policy that writes exactly its script."""
  folder = tmp_path_factory.mktemp('scripted')
  policy = policies.scripted_policy(folder, PIECES)
  actor = policies.make_actor(policy, folder, protocol='ssrl')
  tasks = policies.make_tasks([f'so {m} ?' for m in SCRIPTS])
  with Pool(config.Retrieval(backend='none')) as pool:
    return dict(zip(SCRIPTS, actor.rollout(tasks, pool=pool, top_k=1, temperature=0.0)))


def _masks(done, untrained_span):
  """(loss mask, sampled mask) of each rollout's row."""
  settings = config.Config(algo=config.Algo(untrained_span=untrained_span))
  settings.learner = config.Learner(buckets=(96,), tokens_per_microbatch=96)
  told = [batching.summarize(dataclasses.replace(t, rewards={'reward': 1.0}), 0) for t in done]
  values = [np.ones(sum(s.segments), np.float32) for s in told]
  ((trained, _),) = batching.updates(done, told, values, settings, ONE)
  rows = {row.tobytes(): mask for b in trained for row, mask in zip(b.tokens, b.loss_mask)}
  for t in done:
    (context,) = t.contexts
    ids = np.zeros(96, np.int32)
    ids[: context.length] = context.ids
    yield rows[ids.tobytes()][: context.length], context.sampled_mask


def test_a_rollout_is_one_generation_without_a_search(scripted):
  for marker, t in scripted.items():
    (context,) = t.contexts
    assert [s.kind for s in context.segments] == [Kind.PROMPT, Kind.POLICY]
    assert t.status is Status.EOS and not t.turns
    assert len(context.segments[1].ids) == len(SCRIPTS[marker])


def test_tokens_with_information_in_them_are_not_trained_and_no_others(scripted):
  for (mask, sampled), marker in zip(_masks(scripted.values(), 'information'), SCRIPTS):
    expected = np.ones(len(SCRIPTS[marker]), bool)
    expected[INSIDE[marker]] = False
    np.testing.assert_array_equal(mask[sampled], expected)
    assert not mask[~sampled].any()


def test_everything_is_trained_where_no_span_is_named(scripted):
  for mask, sampled in _masks(scripted.values(), ''):
    np.testing.assert_array_equal(mask, sampled)


@pytest.fixture(name='settings', scope='module')
def _settings(tiny_folder):
  """A run with a warm start of its own, which is not made yet."""
  c = tiny.configure(tiny_folder, 'ssrl')
  c.protocol.name = c.reward.name = 'ssrl'
  c.policy.path = f'{c.run_dir}/warmstart/policy'
  c.rollout.policy_tokens = 96
  c.eval_retrieval = config.Retrieval(backend='none')
  c.algo.untrained_span = 'information'
  return c


def test_a_demonstration_recalls_what_the_index_holds(settings):
  tokenizer = tokenizer_lib.load(settings.model.tokenizer)
  protocol = plugins.load('protocols', 'ssrl').open(settings.protocol, tokenizer)
  items = warmstart.read(settings.warmstart.demonstrations)
  with Pool(settings.retrieval) as pool:
    contexts = warmstart.render(items, protocol, tokenizer, pool, top_k=1)
  for item, context in zip(items, contexts, strict=True):
    word, near = item['steps'][0]['search'], item['steps'][1]['answer']
    assert {segment.kind for segment in context.segments[1:]} == {Kind.POLICY}
    written = tokenizer.text_of(context.ids[len(context.segments[0].ids) :])
    assert written == (
      f'<think> Look. </think>\n<search> {word} </search>\n'
      f'<information> The {word} lies near {near}. </information>\n'
      f'<think> It is. </think>\n<answer> {near} </answer>'
    )
    # What the policy writes is supervised, the information with it.
    np.testing.assert_array_equal(warmstart._weighted(context, 0.0).loss_mask, context.sampled_mask)


@pytest.mark.slow
def test_what_was_learnt_is_recalled_and_what_is_recalled_is_not_trained(settings):
  warmstart.warmstart(settings)
  with Run(settings) as run:
    clock = metrics.Clock()
    run.load_weights(clock)
    done = run.rollout(run.intake.take(0), clock)
    summaries = run.gather(done)
    ((trained, _),) = run.batch(done, summaries, run.estimate(summaries, 0))
    state = run.update([batching.Update(trained, [])], clock)
  assert np.isfinite(state['actor/pg_loss'])
  assert np.mean([t.rewards['em'] for t in done]) > 0.3
  assert np.mean([t.rewards['format'] for t in done]) > 0.5 and not any(t.turns for t in done)
  tokenizer = tokenizer_lib.load(settings.policy.path)
  rows = [
    (np.asarray(b.tokens)[i, :n], np.asarray(b.loss_mask)[i, :n])
    for b in trained
    for i, n in enumerate(np.asarray(b.lengths))
    if n
  ]
  assert len(rows) == len(done)
  for ids, mask in rows:
    context = next(c for t in done for c in t.contexts if np.array_equal(c.ids, ids))
    untrained = tokenizer.text_of(ids[context.sampled_mask & ~mask])
    recalled = [
      tokenizer.bytes_of(context.segments[s.segment].ids)[s.start : s.stop].decode(errors='replace')
      for s in context.spans
      if s.name == 'information'
    ]
    assert not mask[~context.sampled_mask].any()
    assert all(text in untrained for text in recalled) and bool(recalled) == bool(untrained)
    assert len(untrained) <= sum(len(text) + 6 for text in recalled)  # The ends of tags at most.
