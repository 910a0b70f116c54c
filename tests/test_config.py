"""The configurations in the repository, and what the command line makes of an override."""

import pathlib

import pytest

from jaxsearch import cli, config, fields, validation
from jaxsearch.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))


@pytest.fixture
def seen(monkeypatch):
  """Configurations that reached the check, which then refuses them so that the verb ends."""
  found = []

  def stop(checked, verb, **_):
    found.append(checked)
    raise UserError('seen')

  monkeypatch.setattr(validation, 'validate', stop)
  return found


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'c.py'
  path.write_text(
    'from jaxsearch.config import Config\ndef get_config():\n  return Config(seed=3)\n'
  )
  return path


def test_overrides_take_the_type_of_their_field(seen, file):
  flags = '--config.algo.group_size=4 --config.algo.clip_low=1 --config.policy.scan=false'
  flags += ' --config.algo.terms=kl_to_old=0.1,positive_likelihood=-2'
  flags += ' --config.learner.buckets=(64,128) --config.run_dir=7 --config.mesh.tensor=-1'
  assert cli.main(['train', f'--config={file}', *flags.split()]) == 2
  (c,) = seen
  assert (c.seed, c.algo.group_size, c.run_dir, c.policy.scan) == (3, 4, '7', False)
  assert c.learner.buckets == (64, 128) and c.mesh.tensor == -1
  assert c.algo.terms == 'kl_to_old=0.1,positive_likelihood=-2'
  assert isinstance(c.algo.clip_low, float) and c.algo.clip_high == 0.2


def test_eval_flags_replace_the_fields_they_stand_for(seen, file):
  flags = ['--policy=/p', '--questions=/q', '--index=/i', '--out=/tmp/o', '--config.seed=5']
  assert cli.main(['eval', f'--config={file}', *flags]) == 2
  (c,) = seen
  assert (c.policy.path, c.questions.dev, c.eval_retrieval.index, c.seed) == ('/p', '/q', '/i', 5)


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--config.algo.grup_size=4', "Did you mean 'algo.group_size'?"),
    ('--noconfig.policy.remta', "Did you mean 'policy.remat'?"),
    ('--config.algo.group_size=four', 'four'),
    ('--config.policy.scan=perhaps', 'perhaps'),
    ('--config.algo=4', "no field 'algo'"),
    ('--cnfig.seed=4', 'cnfig.seed'),
    ('stray', "'stray' is not a flag"),
  ],
)
def test_what_is_not_a_field_or_not_its_type_is_refused(seen, file, capsys, flag, message):
  assert cli.main(['train', f'--config={file}', flag]) == 2
  assert message in capsys.readouterr().err
  assert not seen


def test_unknown_fields_are_told_together(seen, file, capsys):
  assert cli.main(['train', f'--config={file}', '--config.sed=1', '--config.algo.klcoef=1']) == 2
  error = capsys.readouterr().err
  assert "'seed'" in error and "'algo.kl_coef'" in error


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('def get_config():\n  return {}\n', 'must return a jaxsearch.config.Config'),
    ('def get_config():\n  return 1 / 0\n', 'broken.py, line 2 failed: ZeroDivisionError'),
    ('def get_config(:\n', 'broken.py, line 1 failed: SyntaxError'),
    ('x = 1\n', "no attribute 'get_config'"),
    (
      'from jaxsearch.config import *\ndef get_config():\n  return Algo(grup_size=1)\n',
      "Did you mean 'group_size'?",
    ),
  ],
)
def test_a_broken_configuration_file_is_named(tmp_path, text, message):
  path = tmp_path / 'broken.py'
  path.write_text(text)
  with pytest.raises(UserError) as caught:
    config.read(str(path))
  assert message in str(caught.value)


def test_what_follows_the_colon_is_passed_on(tmp_path):
  path = tmp_path / 'c.py'
  path.write_text('from jaxsearch.config import *\ndef get_config(size):\n  return Config(size)\n')
  assert config.read(f'{path}:ci').run_dir == 'ci'
  with pytest.raises(UserError, match='missing 1 required'):
    config.read(str(path))


@pytest.mark.parametrize(
  ('name', 'changed'),
  [
    ('no_retriever', 'retrieval.backend'),
    ('random_documents', 'retrieval.backend'),
    ('random_documents_exact', 'retrieval.backend reward.name'),
    ('shuffled_rewards', 'algo.advantage'),
    ('no_observation_mask', 'algo.loss_tokens'),
    (
      'continued_warmstart',
      'warmstart.policy warmstart.optimizer.learning_rate warmstart.optimizer.warmup_steps '
      'warmstart.optimizer.decay_steps',
    ),
  ],
)
def test_a_control_differs_from_the_quick_start_in_what_it_names(name, changed):
  control, full = (
    dict(fields.flatten(config.read(f'{ROOT}/configs/{path}')))
    for path in (f'ablations/{name}.py:default,runs/x,runs/y', 'quickstart.py:default,runs/x')
  )
  differing = {field for field in full if control[field] != full[field]}
  assert differing == {'run_dir', *changed.split()}
  assert control['warmstart.policy'] in ('', full['policy.path'])


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_configuration_of_the_repository_is_valid_but_for_files(path):
  made = config.read(str(path))
  for verb in ('warmstart', 'collect', 'train', 'eval', 'ask'):
    try:
      validation.validate(made, verb)
    except UserError as error:
      files = ('a policy folder', 'a tokenizer folder', 'an existing JSON', 'a folder made by')
      lines = str(error).splitlines()[1:]
      assert [line for line in lines if not any(text in line for text in files)] == []
