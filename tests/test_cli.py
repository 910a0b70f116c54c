"""The verbs: a mistake is one paragraph and exit code 2; data verbs never start JAX."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxsearch import cli
from jaxsearch.world import auditor

ROOT = pathlib.Path(__file__).parents[1]
VERBS = ['world', 'index', 'warmstart', 'eval', 'difficulty', 'collect', 'train', 'report', 'ask']
CONFIG = 'from jaxsearch.config import Config\ndef get_config():\n  return Config()\n'


@pytest.fixture
def files(tmp_path):
  (tmp_path / 'c.py').write_text(CONFIG)
  (tmp_path / 'empty.jsonl').write_text('')
  return tmp_path


@pytest.mark.parametrize('argv', [[], ['--help'], ['help']])
def test_the_verbs_are_listed(argv, capsys):
  assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert all(f'  {verb} ' in out for verb in VERBS)


@pytest.mark.parametrize('verb', VERBS)
def test_each_verb_explains_its_flags(verb, capsys):
  assert cli.main([verb, '--help']) == 0
  out = capsys.readouterr().out
  assert '--' in out and '(default: ' in out
  assert ('algo.group_size = 8' in out) == (verb not in ('world', 'index', 'report'))


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ('trian', "Did you mean 'train'?"),
    ('world', '--out'),
    ('world --out={}/c.py/w', 'no file can be made in'),
    ('world --out={}/w --seed=x', 'seed'),
    ('world --out={}/w --size=huge', 'default|ci'),
    ('index --corpus={}/none.jsonl --out={}/i', 'none.jsonl'),
    ('index --corpus={}/empty.jsonl --out={}/i', 'empty'),
    ('index --corpus={}/empty.jsonl --out={}/i --stemmer=klingon', 'danish'),
    ('train', '--config is missing'),
    ('train --config={}/none.py', 'none.py'),
    ('train --config={}/c.py', 'policy.path'),
    ('train --config={}/c.py --config.run_dir={}/c.py/run', 'Not a directory'),
    ('warmstart --config={}/c.py --config.run_dir={}/run', 'model.tokenizer'),
    ('warmstart --config={}/c.py --task=serch', 'search|simulator'),
    ('collect --config={}/c.py', '--out'),
    ('collect --config={}/c.py --out={}/r.jsonl', 'questions.train'),
    ('eval --config={}/c.py --policy={}/nowhere', 'nowhere'),
    ('ask --config={}/c.py', '--question'),
    ('report', 'either --run=DIR or --compare'),
    ('report --run={}/none', 'does not exist'),
    ('report --compare={}', 'NAME=DIR'),
  ],
)
def test_a_mistake_is_one_paragraph_and_code_two(files, capsys, argv, message):
  before = sorted(files.iterdir())
  assert cli.main(argv.format(*[files] * 9).split()) == 2
  output = capsys.readouterr()
  assert output.out == '' and output.err.startswith('jaxsearch')
  assert message in output.err and '\n\n' not in output.err and 'Traceback' not in output.err
  assert sorted(files.iterdir()) == before, 'something was written'


def test_a_world_that_fails_its_audit_ends_with_code_two(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(auditor, 'ORACLE_LIMIT', 1.5)
  assert cli.main(['world', f'--out={tmp_path}/w', '--size=ci', '--audit']) == 2
  output = capsys.readouterr()
  assert 'fails its audit' in output.err and 'oracle' in output.err
  assert 'at least 1.5' in output.out and 'failed' in output.out


def test_data_verbs_work_without_starting_jax(tmp_path):
  code = f"""
import sys
from jaxsearch import cli
from jaxsearch.world import auditor
assert cli.main(['world', '--out={tmp_path}/w', '--size=ci', '--seed=1']) == 0
corpus = '--corpus={tmp_path}/w/dev/corpus.jsonl'
assert cli.main(['index', corpus, '--out={tmp_path}/i']) == 0
assert cli.main(['report', '--run={tmp_path}/w']) == 0
assert sys.modules.get('jax') is None
"""
  usage = tmp_path / 'usage.jsonl'
  environment = os.environ | {'JAXSEARCH_USAGE': str(usage)}
  done = subprocess.run(
    [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in usage.read_text().splitlines()]
  assert [line['verb'] for line in lines] == ['world', 'index', 'report']
  assert all(line['seconds'] > 0 and 10 < line['peak_rss_mb'] < 4096 for line in lines)


def test_several_processes_fail_together():
  script = str(ROOT / 'launch' / 'local_processes.sh')
  environment = os.environ | {'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [script, '2', 'trian'], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 2 and "Did you mean 'train'?" in done.stdout
  done = subprocess.run([script, 'train'], capture_output=True, text=True, check=False)
  assert done.returncode == 2 and 'usage' in done.stderr


@pytest.mark.parametrize('name', ['ablations', 'own_simulator'])
def test_what_stands_beside_a_run_needs_a_finished_one(tmp_path, name):
  environment = os.environ | {'RUN': str(tmp_path), 'OUT': str(tmp_path / 'out')}
  script = str(ROOT / 'launch' / f'{name}.sh')
  done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and 'launch/quickstart.sh first' in done.stderr
  assert not list(tmp_path.iterdir())
