"""README and BUILD.md: files that they name exist, commands have these flags, examples work."""

import os
import pathlib
import re
import shlex

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import cli, config, fields, plugins, types
from jaxsearch.algo.summary import Summary
from jaxsearch.protocols import research
from jaxsearch.retrieval.indexing import build
from jaxsearch.sources._contract import Result
from jaxsearch.text import tokenizer as tokenizer_lib

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = {name: (ROOT / name).read_text() for name in ('README.md', 'BUILD.md')}
ALL = '\n'.join(TEXTS.values())
# Path in the first line of an example -> its code.
EXAMPLES = dict(re.findall(r'```python\n# (\S+)\n(.*?)```', TEXTS['BUILD.md'], re.DOTALL))
EXAMPLES |= dict(re.findall(r'```python\n# (\S+)\n(.*?)```', TEXTS['README.md'], re.DOTALL))
FUNCTIONS = {  # Some examples are functions for files that are there.
  match[1]: match[0]
  for match in re.findall(r'```python\n# \S+\n(def (\w+)\(.*?)```', TEXTS['BUILD.md'], re.DOTALL)
}
COMMANDS = re.findall(r'^jaxsearch \w+ --.*$', ALL, re.MULTILINE)


def _run(path):
  names = {'__name__': 'example'}
  exec(compile(EXAMPLES[path], path, 'exec'), names)
  return names


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer_lib.train(['A question about Ola and Nemi.'], 300, folder)
  return tokenizer_lib.load(folder)


def test_files_that_are_named_exist():
  named = re.findall(r'`((?:jaxsearch|launch|configs|tests|\.ci)/[\w./]+)', ALL)
  named += re.findall(r'(?:^|bash |`)(launch/\w+\.sh)', ALL, re.MULTILINE)
  missing = {p for p in named if not (ROOT / p).exists() and p not in EXAMPLES}
  assert len(named) > 40 and not missing
  sourced = ('launch/verb.sh', 'launch/common.sh')
  scripts = {p for p in named if p.endswith('.sh') and p not in sourced}
  assert all(os.access(ROOT / p, os.X_OK) for p in scripts)


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_have_the_flags_that_are_shown(command, capsys):
  _, verb, *flags = shlex.split(command)
  assert cli.main([verb, '--help']) == 0
  known = re.findall(r'--(\w+)', capsys.readouterr().out)
  known += [f'config.{name}' for name, _ in fields.flatten(config.Config())]
  assert flags and all(flag.split('=')[0].removeprefix('--') in known for flag in flags)


def test_the_reward_example(tokenizer):
  reward = _run('jaxsearch/rewards/exact.py')['reward']
  protocol = research.open(config.Protocol(), tokenizer)

  def response(answer, status=types.Status.EOS):
    text = protocol.render_step({'think': 'Found.', 'answer': answer})
    return types.Response(((types.Kind.POLICY, text),), status, ())

  responses = [response('Ola'), response('Nemi'), response('Ola', types.Status.TURN_CAP)]
  scores = reward(types.Question('q', 'Who?', ('ola',)), responses, protocol)
  assert [row['reward'] for row in scores] == [1.0, 0.0, 0.0]


def test_the_protocol_example(tokenizer):
  protocol = _run('jaxsearch/protocols/numbered.py')['open'](config.Protocol(), tokenizer)
  documents = tuple(types.Document(name, name.title(), f'{name} is.') for name in ('ola', 'nemi'))
  result = types.SearchResult(types.Outcome.OK, (documents,))
  assert '\n[2] Nemi\nnemi is.\n</result>' in protocol.observation(result, 2)
  assert '[' not in protocol.observation(types.SearchResult(types.Outcome.EMPTY, ((),)), 0)
  assert protocol.stops == ('</search>',)


def test_the_backend_example(tmp_path):
  (tmp_path / 'c.jsonl').write_text('{"id": "1", "contents": "Ola Nemi\\nA baker."}\n')
  build.build(str(tmp_path / 'c.jsonl'), str(tmp_path / 'index'))
  made = _run('jaxsearch/retrieval/backends/title.py')['open']
  backend = made(config.Retrieval(index=str(tmp_path / 'index')))
  request = types.SearchRequest('t', 0, 0, (' ola nemi', 'Ola'), 3, 'q', 0.0, 0)
  (found,) = backend.search([request])
  assert [[d.id for d in documents] for documents in found.documents] == [['1'], []]


def test_the_dialect_example():
  made = _run('jaxsearch/retrieval/dialects/plain.py')
  path, body = made['ask'](['ola'], 2)
  asked = made['parse'](path, body)
  assert (asked.queries, asked.top_k) == (('ola',), 2) and made['parse']('/retrieve', body) is None
  reply = made['render'](asked, [[types.Document('1', 'Ola', 'A baker.', 0.5)]])
  ((found,),) = made['read'](reply, 1, 2).documents
  assert (found.title, found.text, found.score) == ('Ola', 'A baker.', 1.0)


def _summaries(rewards):
  status = lambda r: types.Status.INFRA if r < 0 else types.Status.EOS
  return [
    Summary(0, i, {'reward': r, 'format': r} if r >= 0 else {}, status(r), (2,), (i,), 1, length=9)
    for i, r in enumerate(rewards)
  ]


def test_the_estimator_example():
  names = dict(vars(plugins.load('algo', 'advantages')))
  exec(FUNCTIONS['batch_mean'], names)
  found = names['batch_mean'](_summaries([0.0, 1.0, -1.0, 0.5]), np.random.default_rng(0))
  np.testing.assert_allclose(np.array(found)[:, 1], [-0.5, 0.5, 0.0, 0.0])


def test_the_selector_example():
  names = dict(vars(plugins.load('algo', 'selectors')))
  exec(FUNCTIONS['unless_malformed'], names)
  assert names['unless_malformed'](_summaries([0.0, 1.0, -1.0])) == [False, True, False]


def test_the_loss_example():
  names = dict(vars(plugins.load('algo', 'losses')))
  exec(FUNCTIONS['truncated_ratio'], names)
  new, old = jnp.log(jnp.array([0.6, 0.2])), jnp.log(jnp.array([0.4, 0.4]))
  arrays = (new, old, jnp.array([1.0, 2.0]), jnp.ones(2, bool))
  losses, clipped = names['truncated_ratio'](*arrays, clip_low=0.2, clip_high=0.2)
  np.testing.assert_allclose(losses, [-1.2 * np.log(0.6), -0.5 * 2 * np.log(0.2)], rtol=1e-6)
  assert clipped.tolist() == [True, False]


def test_the_term_example():
  names = dict(vars(plugins.load('algo', 'terms')))
  exec(FUNCTIONS['unlikelihood'], names)
  logprobs, zeros = jnp.log(jnp.array([[0.5, 0.75, 0.75]])), jnp.zeros((1, 3))
  advantages, kept = jnp.array([[-1.0, -2.0, 3.0]]), jnp.ones((1, 3), bool)
  outputs = names['Outputs'](logprobs, zeros, logprobs, advantages, None, kept)
  values, over = names['unlikelihood'](outputs)
  np.testing.assert_allclose(values, [[np.log(2), np.log(4), np.log(4)]], rtol=1e-6)
  assert over.tolist() == [[True, True, False]]


def test_the_source_example():
  asked = [types.Question(str(h), '?', ('x',), {'hops': h}) for h in (2, 1, 3)]
  made = _run('jaxsearch/sources/by_hops.py')
  source = made['open'](asked, 0, None)
  assert [q.id for q in source.take(0, 2)] == ['1', '1']
  source.feedback([Result('1', 1, 2), Result('1', 0, 2)])
  assert source.state() == 1
  source.feedback([Result('1', 1, 2), Result('1', 1, 2)])
  assert [q.id for q in made['open'](asked, 0, source.state()).take(0, 2)] == ['2', '1']


@pytest.mark.parametrize('path', ['configs/mine.py', 'configs/larger_groups.py'])
def test_the_configuration_examples(tmp_path, monkeypatch, path):
  monkeypatch.chdir(ROOT)
  (tmp_path / 'c.py').write_text(EXAMPLES[path])
  made = config.read(str(tmp_path / 'c.py'))
  assert made.run_dir in ('runs/mine', 'runs/larger_groups')
