"""The warm start: demonstrations become the very contexts that a rollout would have made."""

import json

import numpy as np
import pytest
import tiny

from jaxsearch import checkpoint, metrics, plugins, trainer, warmstart
from jaxsearch.retrieval.pool import Pool
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.training_run import Run
from jaxsearch.types import Kind, UserError


@pytest.fixture(scope='module')
def rendered(tiny_folder):
  """(configuration, tokenizer, protocol, demonstrations, contexts)."""
  config = tiny.configure(tiny_folder, 'none')
  tokenizer = tokenizer_lib.load(config.model.tokenizer)
  protocol = plugins.load('protocols', 'research').open(config.protocol, tokenizer)
  items = warmstart.read(config.warmstart.demonstrations)
  with Pool(config.retrieval) as pool:
    contexts = warmstart.render(items, protocol, tokenizer, pool, top_k=1)
  return config, tokenizer, protocol, items, contexts


def test_a_demonstration_has_the_shape_of_a_rollout(rendered):
  _, tokenizer, _, items, contexts = rendered
  for item, context in zip(items, contexts, strict=True):
    kinds = [segment.kind for segment in context.segments]
    assert kinds == [Kind.PROMPT, Kind.POLICY, Kind.OBSERVATION, Kind.POLICY]
    prompt, search, found, answer = (tokenizer.text_of(s.ids) for s in context.segments)
    (word, near) = item['steps'][0]['search'], item['steps'][1]['answer']
    assert prompt == item['question'] + '\n'
    assert search == f'<think> Look. </think>\n<search> {word} </search>'
    assert found == f'\n<result>\n{word}\nThe {word} lies near {near}.\n</result>\n'
    assert answer == f'<think> It is. </think>\n<answer> \\boxed{{ {near} }} </answer>'
    assert context.segments[-1].ids[-1] == tokenizer.eos_ids[0]


def test_a_policy_that_learnt_them_writes_them(rendered, tiny_folder):
  """Same ids from the sampler as in the demonstration: nothing is tokenised in another way."""
  config, _, _, items, contexts = rendered
  by_question = {item['question']: context for item, context in zip(items, contexts)}
  config = tiny.configure(tiny_folder, 'writes')
  config.rollout.temperature = 0.05
  with Run(config) as run:
    clock = metrics.Clock()
    run.load_weights(clock)
    done = run.rollout(run.intake.take(0), clock)
  equal = [np.array_equal(t.contexts[0].ids, by_question[t.task.question.text].ids) for t in done]
  assert np.mean(equal) > 0.5


def test_losses_fall_and_the_policy_folder_is_whole(tiny_folder):
  losses = json.loads((tiny_folder / 'start' / 'warmstart' / 'losses.json').read_text())
  assert len(losses) == 150 and np.mean(losses[-10:]) < 0.1 * losses[0]
  size, _, tokenizer = checkpoint.load_policy(tiny_folder / 'start/warmstart/policy', None)
  assert size.vocab == tokenizer.vocab_size and size.layers == 2


def test_a_warm_start_goes_on_from_a_policy(tiny_folder):
  config = tiny.configure(tiny_folder, 'further')
  config.warmstart.policy, config.warmstart.steps = config.policy.path, 2
  config.model.tokenizer = ''
  warmstart.warmstart(config)
  before = json.loads((tiny_folder / 'start' / 'warmstart' / 'losses.json').read_text())
  after = json.loads((tiny_folder / 'further' / 'warmstart' / 'losses.json').read_text())
  assert len(after) == 2 and after[0] < 0.2 * before[0]


def test_only_observations_that_are_weighted_are_trained(rendered):
  *_, contexts = rendered
  kinds = np.concatenate([np.full(len(s.ids), s.kind, object) for s in contexts[0].segments])
  for weight, trained in ((0.0, {Kind.POLICY}), (0.25, {Kind.POLICY, Kind.OBSERVATION})):
    row = warmstart._weighted(contexts[0], weight)
    np.testing.assert_array_equal(row.loss_mask, np.isin(kinds, list(trained)))
    assert set(row.advantages[row.loss_mask]) == ({1.0, weight} - {0.0})


def test_a_retriever_that_fails_is_told(tiny_folder):
  config = tiny.configure(tiny_folder, 'failed')
  faulty = tiny.make_faulty(tiny_folder, 'warm_faulty', error=1.0)
  config.retrieval.backend, config.retrieval.index = 'faulty', str(faulty['retrieval__index'])
  with pytest.raises(UserError, match='the retriever failed on demonstrations'):
    warmstart.warmstart(config)
  assert not (tiny_folder / 'failed').exists()


def test_training_starts_from_the_warm_start(tiny_folder):
  config = tiny.configure(tiny_folder, 'first')
  config.schedule.steps = config.schedule.eval_every = 1
  trainer.train(config)
  first = metrics.read(config.run_dir)[0]
  assert first['val/em'] > 0.5 and first['search/calls_mean'] > 0.5
