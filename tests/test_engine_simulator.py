"""A policy of our own as search engine: what it learnt it writes, whatever it is asked besides."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxsearch import checkpoint, cli, collection, config, questions, sharding
from jaxsearch.models import decoder
from jaxsearch.retrieval import _noise, _simulation
from jaxsearch.retrieval.backends import engine_simulator
from jaxsearch.retrieval.pool import Pool
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import Document, Outcome, Question, SearchRequest, UserError

PROMPT = '{question} {answers}\n{query} {kind}\n'
WORDS = tiny.WORDS[:4]
QUESTIONS = [Question(f'q{i}', f'What is near {a}?', (tiny.NEAR[a],)) for i, a in enumerate(WORDS)]
# The same query from everybody: only the question and the kind tell which page is wanted.
QUERY = 'look'


def page(word, is_useful):
  text = f'The {word} lies near {tiny.NEAR[word]}.' if is_useful else f'No {word} here.'
  return Document('', word, text)


def make_request(i, *, key, queries=(QUERY,), top_k=1):
  return SearchRequest(f't{key}.{i}', 0, 0, queries, top_k, f'q{i}', 0.0, key)


def said(result):
  return [[(d.title, d.text) for d in found] for found in result.documents]


@pytest.fixture(scope='module')
def folder(tiny_folder, tmp_path_factory):
  """Questions, prompt and records, and the simulator that learnt them."""
  folder = tmp_path_factory.mktemp('simulator')
  questions.write(folder / 'q.jsonl', QUESTIONS)
  (folder / 'p.txt').write_text(PROMPT)
  records = [
    {
      'query': QUERY,
      'question': q.text,
      'golden_answers': list(q.golden_answers),
      'documents': [{'title': page(word, useful).title, 'text': page(word, useful).text}],
      'useful': useful,
    }
    for q, word in zip(QUESTIONS, WORDS)
    for useful in (True, False)
  ]
  tiny.lines(folder / 'records.jsonl', records)
  overrides = {
    'run_dir': folder,
    'warmstart__records': folder / 'records.jsonl',
    'warmstart__steps': 120,
    'warmstart__tokens_per_step': 512,
    'retrieval__mode': 'tuned',
    'retrieval__prompt': folder / 'p.txt',
  }
  command = tiny.command('warmstart', tiny_folder, 'unused', **overrides)
  code, output = tiny.finish([*command, '--task=simulator'], folder / 'log')
  assert code == 0, output
  return folder


@pytest.fixture
def settings(folder):
  return config.Retrieval(
    backend='engine_simulator',
    simulator=f'{folder}/simulator/policy',
    mode='tuned',
    prompt=f'{folder}/p.txt',
    questions=f'{folder}/q.jsonl',
    batch=4,
    answer_tokens=40,
    context_tokens=96,
    top_k=1,
    deadline_s=120.0,
  )


def save(folder, tiny_folder, change=lambda params: params):
  """A policy folder with random weights."""
  tokenizer = tokenizer_lib.load(tiny_folder / 'tokenizer')
  size = decoder.Size(
    vocab=tokenizer.vocab_size, layers=2, embed=16, heads=2, kv_heads=1, head_size=8, hidden=16
  )
  mesh = sharding.make_mesh(config.Mesh())
  places = sharding.shardings(
    jax.eval_shape(lambda: decoder.init(jax.random.key(0), size)), decoder.AXES, mesh
  )
  params = jax.jit(lambda: change(decoder.init(jax.random.key(5), size)), out_shardings=places)()
  checkpoint.save_policy(folder / 'random', size, params, tokenizer)
  return f'{folder}/random'


def test_it_writes_what_it_learnt_for_the_question_of_the_row(settings):
  """Rows in another order than their questions, some of them twice: nothing is mixed up."""
  settings.noise_start = settings.noise_end = 0.5
  requests = [make_request(i, key=key) for key, i in enumerate((3, 1, 0, 3, 2, 2, 1, 3, 0, 1))]
  with Pool(settings) as pool:
    for request in requests:
      pool.submit(request)
    answers = []
    while pool.pending:
      answers += pool.poll(5.0)
  wanted = [
    page(WORDS[int(r.question_id[1:])], not _noise.is_noisy(settings, r)) for r, _ in answers
  ]
  right = [said(result) == [[(d.title, d.text)]] for d, (_, result) in zip(wanted, answers)]
  assert len(right) == 10 and sum(right) >= 9, answers


def test_noise_is_drawn_from_the_key_and_told_to_the_simulator(settings):
  settings.noise_start = settings.noise_end = 0.4
  requests = [make_request(key % 4, key=key) for key in range(40)]
  results = engine_simulator.open(settings).search(requests)
  noisy = ['noisy' in result.documents[0][0].id for result in results]
  assert noisy == [_noise.is_noisy(settings, request) for request in requests]
  assert 8 <= sum(noisy) <= 24
  told = ['No ' in text for (((_, text),),) in map(said, results)]
  assert sum(a == b for a, b in zip(noisy, told)) >= 36


@pytest.mark.slow
def test_an_answer_depends_on_its_own_request_alone(settings, tiny_folder, tmp_path):
  """Bit-equal texts whatever the company, the order, the opening and the process."""
  settings.simulator, settings.answer_tokens = save(tmp_path, tiny_folder), 24
  requests = [make_request(i % 4, key=2**40 * (i // 2), queries=(QUERY, 'x')) for i in range(9)]
  requests.append(make_request(1, key=7, queries=('x', 'y', 'x')))
  backend = engine_simulator.open(settings)
  together = backend.search(requests)
  assert all(result.outcome is Outcome.OK for result in together)
  assert backend.search(requests[::-1])[::-1] == together
  assert [backend.search([request])[0] for request in requests] == together
  assert engine_simulator.open(settings).search(requests[3:6]) == together[3:6]
  with Pool(settings) as pool:
    for request in requests:
      pool.submit(request)
    answers = {}
    while pool.pending:
      answers |= dict(pool.poll(5.0))
  for request, result in zip(requests, together):
    assert answers[request].documents == result.documents, answers[request]
  # Another key, another question, another place of the query: another text.
  texts = {str(found) for result in together for found in said(result)}
  assert len(texts) == sum(len(request.queries) for request in requests)


def test_nothing_written_and_no_room_to_write_are_typed(settings, tiny_folder, tmp_path):
  eos = tokenizer_lib.load(tiny_folder / 'tokenizer').eos_ids[0]

  def mute(params):  # The end of text, whatever came before.
    params = jax.tree.map(jnp.zeros_like, params)
    params['norm'] = jax.tree.map(jnp.ones_like, params['norm'])
    params['embed'] = jnp.ones_like(params['embed']).at[eos].set(9.0)
    return params

  requests = [make_request(0, key=1), make_request(1, key=2, queries=('amber ' * 80,))]
  settings.simulator = save(tmp_path, tiny_folder, mute)
  empty, no_room = engine_simulator.open(settings).search(requests)
  assert empty.outcome is Outcome.EMPTY and said(empty) == [[]]
  assert no_room.outcome is Outcome.BAD_QUERY and 'context_tokens' in no_room.message


def test_what_the_budget_cuts_is_used_as_it_is(settings):
  whole, cut = [], []
  for tokens, found in ((40, whole), (12, cut)):
    settings.answer_tokens = tokens
    (result,) = engine_simulator.open(settings).search([make_request(2, key=3)])
    assert result.outcome is Outcome.OK
    found += [f'{d.title} {d.text}' for d in result.documents[0]]
  assert whole[0].startswith(cut[0][:4]) and 0 < len(cut[0]) < len(whole[0])


def test_it_learns_the_very_prompt_and_form_of_its_use(settings, folder, tiny_folder):
  tokenizer = tokenizer_lib.load(tiny_folder / 'tokenizer')
  records = collection.read(folder / 'records.jsonl')
  contexts = collection.render(records, settings, tokenizer)
  for i, (record, context) in enumerate(zip(records, contexts)):
    settings.noise_start = settings.noise_end = 0.0 if record['useful'] else 1.0
    asker, request = _simulation.Asker(settings), make_request(i // 2, key=0)
    prompt, text = context.segments
    assert tokenizer.text_of(prompt.ids) == asker.prompts(request)[0]
    assert text.ids[-1] == tokenizer.eos_ids[0]
    (found,) = asker.documents(request, QUERY, tokenizer.text_of(text.ids))
    assert [{'title': found.title, 'text': found.text}] == record['documents']


def test_it_stays_on_the_cpu(settings):
  """Whatever JAX would choose in this process: an accelerator belongs to another one."""
  code = f"""
import json, sys
from jaxsearch import config
from jaxsearch.retrieval.backends import engine_simulator
assert sys.modules.get('jax') is None
engine_simulator.open(config.Retrieval(**json.loads({json.dumps(dataclasses.asdict(settings))!r})))
import jax
assert jax.config.jax_platforms == 'cpu' and {{d.platform for d in jax.devices()}} == {{'cpu'}}
"""
  environment = {k: v for k, v in tiny.variables().items() if k != 'JAX_PLATFORMS'}
  done = subprocess.run(
    [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


def test_wrong_settings_are_refused(settings, tiny_folder, capsys):
  settings.simulator = os.path.dirname(settings.questions)
  with pytest.raises(UserError, match='is no policy folder'):
    engine_simulator.open(settings)
  options = {
    'retrieval__backend': 'engine_simulator',
    'retrieval__simulator': '/nowhere',
    'retrieval__prompt': settings.questions,
    'retrieval__answer_tokens': 1024,
    'retrieval__mode': 'guided',
  }
  assert cli.main(tiny.command('train', tiny_folder, 'refused', **options)) == 2
  error = capsys.readouterr().err
  for line in (
    "retrieval.simulator is '/nowhere'; allowed: a policy folder",
    "retrieval.questions is ''; allowed: an existing JSON lines or Parquet file",
    'retrieval.prompt is',
    'allowed: a file with {query} and {kind} in it',
    'retrieval.answer_tokens is 1024; allowed: below retrieval.context_tokens = 1024',
    "retrieval.mode is 'guided'; allowed: prompted, tuned",
  ):
    assert line in error, error
