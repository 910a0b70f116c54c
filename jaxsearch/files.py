"""The files and folders that a verb needs: what of them is not there, in the words of the user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from jaxsearch import config as config_lib
from jaxsearch import fields

_SIMULATORS = ('engine_simulator', 'simulator')
# Backends that need no index.
WITHOUT_INDEX = ('none', 'http', *_SIMULATORS)
_FOLDERS = ('model.tokenizer', 'policy.path', 'policy.reference', 'warmstart.policy')


def problems(c: config_lib.Config, verb: str, made: Sequence[str]) -> list[str]:
  """What is wrong with the files that `verb` reads, and with the folder that it writes.

  Args:
    c: a configuration whose fields have the right types.
    verb: of the command line.
    made: policy folders that need not be there yet.
  """
  values = dict(fields.flatten(c))
  start = 'warmstart.policy' if c.warmstart.policy else 'model.tokenizer'
  train, test = 'retrieval.index', 'eval_retrieval.index'
  needs = {
    'warmstart': [start, 'warmstart.demonstrations', train],
    'warmstart --task=simulator': [start, 'warmstart.records'],
    'collect': ['policy.path', 'questions.train', train],
    'train': ['policy.path', 'questions.train', 'questions.dev', train, test],
    'eval': ['policy.path', 'questions.dev', test],
    'ask': ['policy.path', test],
    'serve': [train],
    'bench': [],
    'plan': [],
  }[verb]
  if verb == 'train' and c.algo.kl_coef > 0 and c.policy.reference:
    needs.append('policy.reference')
  backends = {train: c.retrieval, test: c.eval_retrieval}
  for index, settings in backends.items():
    section = index.partition('.')[0]
    if index in needs and settings.backend in _SIMULATORS:
      needs.append(f'{section}.questions')
    if index in needs and settings.backend == 'engine_simulator':
      needs.append(f'{section}.simulator')
  found = _simulators(c, verb, needs)
  for name in needs:
    path = str(values[name])
    if name in backends:
      if backends[name].backend not in WITHOUT_INDEX and not os.path.isdir(path):
        found.append(f'{name} is {path!r}; allowed: a folder made by `jaxsearch index`.')
    elif os.path.normpath(path) in map(os.path.normpath, made):
      continue
    elif name in _FOLDERS or name.endswith('.simulator'):
      if not os.path.isfile(os.path.join(path, 'tokenizer.json')):
        kind = 'tokenizer' if name == 'model.tokenizer' else 'policy'
        found.append(f'{name} is {path!r}; allowed: a {kind} folder, with a tokenizer.json.')
    elif not os.path.isfile(path):
      parquet = ' or Parquet' if 'questions' in name else ''
      found.append(f'{name} is {path!r}; allowed: an existing JSON lines{parquet} file.')
  if c.protocol.prompt:
    form = c.protocol.form
    places = () if form == 'instruct' else ('{question}',)
    found += _text('protocol.prompt', c.protocol.prompt, places, f' with protocol.form {form!r}')
  if verb == 'train' or verb.startswith('warmstart'):
    reason = unwritable(c.run_dir) if c.run_dir else 'empty'
    if reason:
      found.append(f'run_dir is {c.run_dir!r}: {reason}; allowed: a folder you may write to.')
  return found


def unwritable(folder: str) -> str:
  """Why files cannot be made under `folder`, which need not exist yet; empty if they can."""
  existing = os.path.abspath(folder)
  while not os.path.lexists(existing):
    existing = os.path.dirname(existing)
  try:
    with tempfile.TemporaryFile(dir=existing):
      return ''
  except OSError as error:
    return f'no file can be made in {existing} ({error.strerror})'


def _simulators(c: config_lib.Config, verb: str, needs: Sequence[str]) -> list[str]:
  """How simulators are asked, where one works or learns."""
  found = []
  for section, settings in (('retrieval', c.retrieval), ('eval_retrieval', c.eval_retrieval)):
    learns = verb.endswith('simulator') and section == 'retrieval'
    if learns and settings.mode != 'tuned':
      found.append(f'{section}.mode is {settings.mode!r}; allowed with {verb}: tuned.')
    if settings.prompt and (learns or f'{section}.questions' in needs):
      found += _text(f'{section}.prompt', settings.prompt, ('{query}', '{kind}'))
  return found


def _text(name: str, path: str, places: Sequence[str], when: str = '') -> list[str]:
  """What is wrong with the text file that the field `name` holds."""
  try:
    with open(path, encoding='utf-8') as file:
      text = file.read()
  except (OSError, UnicodeDecodeError):
    return [f'{name} is {path!r}; allowed: a text file, or empty.']
  if all(place in text for place in places):
    return []
  return [f'{name} is {path!r}; allowed{when}: a file with {" and ".join(places)} in it.']
