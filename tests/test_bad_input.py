"""What the user can mend: one paragraph, exit code 2, and nothing half-written."""

import json
import shutil

import pytest
import tiny

from jaxsearch import cli

OTHER = '{"id": "a", "question": "Why?", "golden_answers": ["b"]}\n'


@pytest.fixture
def files(tmp_path_factory):
  """The files of `tiny` with a policy folder that is whole but for its parameters."""
  folder = tmp_path_factory.mktemp('bad')
  tiny.write(folder)
  policy = folder / 'start' / 'warmstart' / 'policy'
  shutil.copytree(folder / 'tokenizer', policy)
  size = {'vocab': 360, 'layers': 2, 'embed': 32, 'heads': 2, 'kv_heads': 1}
  size |= {'family': 'decoder', 'head_size': 16, 'hidden': 64}
  (policy / 'size.json').write_text(json.dumps(size))
  return folder


def _refused(capfd, verb, files, *flags, **overrides):
  """What the verb says; it must end with 2 and leave no trace."""
  before = sorted(files.rglob('*'))
  code = cli.main([*tiny.command(verb, files, 'new', **overrides), *flags])
  error = capfd.readouterr().err
  message = error[error.rindex(f'jaxsearch {verb}: ') :]
  assert code == 2 and 'Traceback' not in error and '\n\n' not in message.strip()
  assert sorted(files.rglob('*')) == before, 'something was written'
  return message


@pytest.mark.parametrize('split', ['train', 'dev'])
@pytest.mark.parametrize(
  ('line', 'problem'),
  [
    ('{"id": "x", "question": 7, "golden_answers": ["b"]}\n', "line 2, field 'question' is 7"),
    ('{"id": "x", "question": "Why?"}\n', "line 2, field 'golden_answers' is missing"),
    ('{"id": "x", \n', 'line 2 is not JSON'),
    (OTHER, "line 2, field 'id'"),
  ],
)
def test_a_broken_question(files, capfd, split, line, problem):
  path = files / f'{split}.jsonl'
  path.write_text(OTHER + line + OTHER)
  assert f'{path}, {problem}' in _refused(capfd, 'train', files)


def test_no_question(files, capfd):
  (files / 'train.jsonl').write_text('')
  assert 'train.jsonl has no questions' in _refused(capfd, 'train', files)


@pytest.mark.parametrize('verb', ['train', 'warmstart', 'eval'])
def test_a_mesh_that_does_not_divide_the_devices(files, capfd, verb):
  message = _refused(capfd, verb, files, mesh__data=3)
  assert 'mesh.data=3' in message and 'does not divide the 1 devices' in message


@pytest.mark.parametrize('verb', ['train', 'warmstart', 'eval'])
def test_a_missing_or_broken_tokenizer(files, capfd, verb):
  folder = files / 'tokenizer' if verb == 'warmstart' else files / 'start/warmstart/policy'
  (folder / 'tokenizer.json').write_text('{}')
  if verb == 'warmstart':  # Elsewhere the parameters come first, and they are missing too.
    assert 'tokenizer.json' in _refused(capfd, verb, files)
  (folder / 'tokenizer.json').unlink()
  message = _refused(capfd, verb, files)
  assert str(folder) in message and 'with a tokenizer.json' in message


@pytest.mark.parametrize('verb', ['train', 'eval'])
def test_a_policy_folder_without_parameters(files, capfd, verb):
  assert 'has no params/' in _refused(capfd, verb, files)


@pytest.mark.parametrize('verb', ['train', 'warmstart'])
def test_a_run_directory_that_cannot_be_made(files, capfd, verb):
  message = _refused(capfd, verb, files, run_dir=files / 'train.jsonl' / 'run')
  assert 'run_dir' in message and 'Not a directory' in message


@pytest.mark.parametrize('verb', ['train', 'warmstart', 'eval'])
def test_a_typo(files, capfd, verb):
  message = _refused(capfd, verb, files, algo__grup_size=3)
  assert "'algo.grup_size'" in message and "Did you mean 'algo.group_size'?" in message


def test_a_broken_demonstration(files, capfd):
  path = files / 'demonstrations.jsonl'
  path.write_text(path.read_text().splitlines()[0] + '\n{"id": "x", "question": "Why?"}\n')
  message = _refused(capfd, 'warmstart', files)
  assert f'{path}, line 2' in message and 'steps' in message


def test_an_empty_corpus(files, capfd):
  (files / 'corpus.jsonl').write_text('\n')
  before = sorted(files.rglob('*'))
  assert cli.main(['index', f'--corpus={files}/corpus.jsonl', f'--out={files}/i']) == 2
  assert 'corpus.jsonl' in capfd.readouterr().err and sorted(files.rglob('*')) == before
