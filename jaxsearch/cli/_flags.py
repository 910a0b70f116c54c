"""Flags of the verbs: what several verbs share, overrides of the configuration, help."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jaxsearch import config as config_lib
from jaxsearch import fields, validation
from jaxsearch.cli import _processes
from jaxsearch.types import UserError


class Help(Exception):
  """The user asked what a verb takes; the message says it."""


def config_only(verb: str, argv: list[str], made: Sequence[str] = ()) -> config_lib.Config:
  """The checked configuration of a verb without flags of its own; `made` as in `validate`."""
  values = flags.FlagValues()
  rest = define_config(values, argv)
  parse(verb, values, rest)
  config = values['config'].value
  validation.validate(config, verb, hosts=_processes.count(), made=made)
  return config


def policy_config(
  verb: str,
  values: flags.FlagValues,
  argv: list[str],
  questions: str = 'questions.dev',
  index: str = 'eval_retrieval.index',
) -> config_lib.Config:
  """The checked configuration with the policy, questions and index that further flags name.

  `questions` and `index` are the fields that the flags of this name stand for.
  """
  places = {'policy': 'policy.path', 'questions': questions, 'index': index}
  for flag, field in places.items():
    what = 'Policy folder; empty' if flag == 'policy' else 'Empty'
    flags.DEFINE_string(flag, '', f'{what}: {field}.', values)
  parse(verb, values, argv)
  config = values['config'].value
  for flag, field in places.items():
    section, _, leaf = field.partition('.')
    if values[flag].value:
      setattr(getattr(config, section), leaf, values[flag].value)
  validation.validate(config, 'eval' if verb == 'difficulty' else verb, hosts=_processes.count())
  return config


def where(config: config_lib.Config) -> dict[str, str]:
  """What `policy_config` settled, as keyword arguments of `evaluation`."""
  return {
    'policy': config.policy.path,
    'questions': config.questions.dev,
    'index': config.eval_retrieval.index,
  }


def split_config(argv: list[str]) -> tuple[str, list[str]]:
  """(value of --config, the other arguments)."""
  rest, path, words = [], '', iter(argv)
  for word in words:
    if word in ('--config', '-config'):
      path = next(words, '')
    elif word.startswith(('--config=', '-config=')):
      path = word.partition('=')[2]
    else:
      rest.append(word)
  return path, rest


def define_config(
  values: flags.FlagValues, argv: list[str], *, is_needed: bool = True
) -> list[str]:
  """Reads the file that --config names, defines its overrides, returns the other arguments.

  Without a file the configuration has the defaults, unless it `is_needed`.
  """
  path, rest = split_config(argv)
  if _wants_help(rest):
    flags.DEFINE_string('config', None, 'Configuration file.', values)
    return rest
  overridden = (re.match(r'--?(?:no)?config\.([\w.]+)', word) for word in rest)
  names = [match.group(1) for match in overridden if match]
  problems = [line for n in names for line in fields.unknown(n, f'--config.{n}')]
  if problems:
    raise UserError('\n'.join(problems))
  if not path and is_needed:
    raise UserError('--config is missing; name a file such as configs/quickstart.py.')
  made = config_lib.read(path) if path else config_lib.Config()
  argv = ['jaxsearch', *rest]
  config_flags.DEFINE_config_dataclass('config', made, flag_values=values, sys_argv=argv)
  return rest


def parse(verb: str, values: flags.FlagValues, argv: list[str]) -> None:
  """Gives the flags of `values` what `argv` says.

  Raises:
    UserError: for an unknown flag, a bad value or a missing one.
    Help: if help is asked for.
  """
  if _wants_help(argv):
    raise Help(_describe(values))
  try:
    rest = values(['jaxsearch', *argv])
  except flags.Error as error:
    raise UserError(f'{error} `jaxsearch {verb} --help` lists the flags.') from error
  if len(rest) > 1:
    raise UserError(f'{rest[1]!r} is not a flag; write --name=value.')


def _wants_help(argv: list[str]) -> bool:
  return any(word in ('--help', '-h') for word in argv)


def _describe(values: flags.FlagValues) -> str:
  lines = [
    f'  --{name:<10} {values[name].help} (default: {values[name].default})' for name in values
  ]
  if 'config' in values:
    lines.append('fields that --config.NAME=VALUE overrides:')
    lines += [f'  {name} = {value!r}' for name, value in fields.flatten(config_lib.Config())]
  return '\n'.join(lines)
