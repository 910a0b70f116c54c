"""The command line: `jaxsearch <verb> [flags]`.

The only place that knows flags. Each verb parses its own flags, has the configuration checked
and calls one function; it imports what it needs when it runs, so that `world`, `index` and
`report` never start JAX. What the user can mend ends as one paragraph on stderr and exit code 2.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import flags
from ml_collections import config_flags

from jaxsearch import config as config_lib
from jaxsearch import metrics, plugins, validation
from jaxsearch.types import UserError

_CI_WORLD = {
  'documents': 600,
  'train_documents': 1200,
  'demonstration_count': 800,
  'train_per_hop': 100,
  'dev_per_hop': 12,
  'test_per_hop': 25,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb; returns the exit code: 0, or 2 if the user has something to mend.

  Args:
    argv: arguments after the program's name; None: those of the process.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  verb, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
  try:
    if verb in ('--help', '-h', 'help'):
      print(_overview())
    elif verb not in _VERBS:
      raise UserError(
        f'there is no verb {verb!r}.{plugins.nearest(verb, _VERBS)} Choices: {", ".join(_VERBS)}.'
      )
    else:
      with metrics.usage(verb):
        _VERBS[verb](rest)
  except UserError as error:
    print(f'jaxsearch {verb if verb in _VERBS else ""}'.rstrip() + f': {error}', file=sys.stderr)
    return 2
  return 0


def _world(argv: list[str]) -> None:
  """Write a synthetic world: documents, questions, demonstrations and a tokenizer."""
  values = flags.FlagValues()
  out = flags.DEFINE_string('out', None, 'Folder to write.', values, required=True)
  seed = flags.DEFINE_integer('seed', 0, 'Another seed is another world.', flag_values=values)
  size = flags.DEFINE_enum('size', 'default', ['default', 'ci'], 'ci: far smaller.', values)
  audit = flags.DEFINE_bool('audit', False, 'Also measure that the task needs search.', values)
  _parse('world', values, argv)
  _require_writable('--out', out.value)
  from jaxsearch import world

  amounts = _CI_WORLD if size.value == 'ci' else {}
  print(json.dumps(world.write(out.value, seed.value, **amounts), indent=2))
  if audit.value:
    found = world.audit(out.value)
    world.show_audit(found)
    failed = [name for name, check in found['checks'].items() if not check['passed']]
    if failed:
      raise UserError(
        f'the world in {out.value!r} fails its audit: {", ".join(failed)}. Do not train on it; '
        'another --seed makes another one.'
      )


def _index(argv: list[str]) -> None:
  """Index a corpus of documents for a retrieval backend."""
  values = flags.FlagValues()
  corpus = flags.DEFINE_string('corpus', None, 'JSON lines.', values, required=True)
  out = flags.DEFINE_string('out', None, 'Folder to write.', values, required=True)
  backend = flags.DEFINE_string('backend', 'bm25', 'File in retrieval/backends/.', values)
  _parse('index', values, argv)
  _require_file('--corpus', corpus.value)
  _require_writable('--out', out.value)
  module = plugins.load('retrieval.backends', backend.value)
  build = plugins.function(module, 'build')
  info = build(corpus.value, out.value)
  print(f'indexed {info["documents"]} documents in {out.value}')


def _warmstart(argv: list[str]) -> None:
  """Make a policy by supervised training on demonstrations."""
  config = _config_only('warmstart', argv)
  _join_processes()
  from jaxsearch import warmstart

  warmstart.warmstart(config)


def _train(argv: list[str]) -> None:
  """Train a policy by reinforcement learning; the same command again resumes."""
  config = _config_only('train', argv)
  _join_processes()
  from jaxsearch import trainer

  trainer.train(config)


def _eval(argv: list[str]) -> None:
  """Score a policy on every question of a file."""
  values = flags.FlagValues()
  rest = _define_config(values, argv)
  policy = flags.DEFINE_string('policy', '', 'Policy folder; empty: policy.path.', values)
  questions = flags.DEFINE_string('questions', '', 'Empty: questions.dev.', values)
  index = flags.DEFINE_string('index', '', 'Empty: eval_retrieval.index.', values)
  out = flags.DEFINE_string('out', '', 'Folder to write; empty: run_dir/eval.', values)
  samples = flags.DEFINE_integer(
    'samples', 0, 'Sampled answers per question for pass@k; 0: greedy only.', 0, flag_values=values
  )
  _parse('eval', values, rest)
  config = values['config'].value
  config.policy.path = policy.value or config.policy.path
  config.questions.dev = questions.value or config.questions.dev
  config.eval_retrieval.index = index.value or config.eval_retrieval.index
  validation.validate(config, 'eval', hosts=_hosts())
  if not (out.value or config.run_dir):
    raise UserError('both --out and run_dir are empty; say where to write with --out=FOLDER.')
  folder = out.value or os.path.join(config.run_dir, 'eval')
  _require_writable('--out', folder)
  _join_processes()
  from jaxsearch import evaluation

  evaluation.evaluate(
    config,
    policy=config.policy.path,
    questions=config.questions.dev,
    index=config.eval_retrieval.index,
    out=folder,
    samples=samples.value,
  )


def _ask(argv: list[str]) -> None:
  """Answer one question and show the searches in colour."""
  values = flags.FlagValues()
  rest = _define_config(values, argv)
  policy = flags.DEFINE_string('policy', '', 'Policy folder; empty: policy.path.', values)
  index = flags.DEFINE_string('index', '', 'Empty: eval_retrieval.index.', values)
  question = flags.DEFINE_string('question', None, 'What to answer.', values, required=True)
  _parse('ask', values, rest)
  config = values['config'].value
  config.policy.path = policy.value or config.policy.path
  config.eval_retrieval.index = index.value or config.eval_retrieval.index
  validation.validate(config, 'ask')
  from jaxsearch import evaluation

  evaluation.ask(
    config,
    policy=config.policy.path,
    index=config.eval_retrieval.index,
    question=question.value,
  )


def _report(argv: list[str]) -> None:
  """Write report.html and summary.json of a run, or compare runs in one picture."""
  values = flags.FlagValues()
  run = flags.DEFINE_string('run', '', 'Run directory.', values)
  compare = flags.DEFINE_list('compare', [], 'name=DIR,name=DIR instead of --run.', values)
  kind = flags.DEFINE_enum('kind', 'bars', ['bars', 'curves'], 'Picture of --compare.', values)
  out = flags.DEFINE_string('out', 'compare.png', 'Picture to write with --compare.', values)
  _parse('report', values, argv)
  pairs = [item.partition('=') for item in compare.value]
  if bool(run.value) == bool(pairs) or not all(equals and folder for _, equals, folder in pairs):
    raise UserError('give either --run=DIR or --compare=NAME=DIR,NAME=DIR.')
  for folder in [run.value] if run.value else [folder for _, _, folder in pairs]:
    if not os.path.isdir(folder):
      raise UserError(f'run directory {folder!r} does not exist; name one that a run has written.')
  _require_writable('the folder of the report', run.value or os.path.dirname(out.value) or '.')
  from jaxsearch import report

  if run.value:
    report.write(run.value)
  else:
    picture = {'bars': report.bars, 'curves': report.curves}[kind.value]
    picture({name: folder for name, _, folder in pairs}, out.value)


_VERBS: Mapping[str, Callable[[list[str]], None]] = {
  'world': _world,
  'index': _index,
  'warmstart': _warmstart,
  'eval': _eval,
  'train': _train,
  'report': _report,
  'ask': _ask,
}


def _overview() -> str:
  lines = [f'  {name:<10} {function.__doc__}' for name, function in _VERBS.items()]
  return 'usage: jaxsearch VERB [flags]; verbs:\n' + '\n'.join(
    [*lines, '`jaxsearch VERB --help` prints the flags of one.']
  )


def _config_only(verb: str, argv: list[str]) -> config_lib.Config:
  values = flags.FlagValues()
  rest = _define_config(values, argv)
  _parse(verb, values, rest)
  config = values['config'].value
  validation.validate(config, verb, hosts=_hosts())
  return config


def _define_config(values: flags.FlagValues, argv: list[str]) -> list[str]:
  """Reads the file that --config names, defines its overrides, returns the other arguments."""
  rest, path, words = [], '', iter(argv)
  for word in words:
    if word in ('--config', '-config'):
      path = next(words, '')
    elif word.startswith(('--config=', '-config=')):
      path = word.partition('=')[2]
    else:
      rest.append(word)
  if _wants_help(rest):
    flags.DEFINE_string('config', None, 'Configuration file.', values)
    return rest
  overridden = (re.match(r'--?(?:no)?config\.([\w.]+)', word) for word in rest)
  names = [match.group(1) for match in overridden if match]
  problems = [line for n in names for line in validation.unknown_field(n, f'--config.{n}')]
  if problems:
    raise UserError('\n'.join(problems))
  if not path:
    raise UserError('--config is missing; name a file such as configs/quickstart.py.')
  made = config_lib.read(path)
  argv = ['jaxsearch', *rest]
  config_flags.DEFINE_config_dataclass('config', made, flag_values=values, sys_argv=argv)
  return rest


def _parse(verb: str, values: flags.FlagValues, argv: list[str]) -> None:
  if _wants_help(argv):
    print(_describe(verb, values))
    raise SystemExit(0)
  try:
    rest = values(['jaxsearch', *argv])
  except flags.Error as error:
    raise UserError(f'{error} `jaxsearch {verb} --help` lists the flags.') from error
  if len(rest) > 1:
    raise UserError(f'{rest[1]!r} is not a flag; write --name=value.')


def _wants_help(argv: list[str]) -> bool:
  return any(word in ('--help', '-h') for word in argv)


def _describe(verb: str, values: flags.FlagValues) -> str:
  lines = [f'jaxsearch {verb}: {_VERBS[verb].__doc__}']
  lines += [
    f'  --{name:<10} {values[name].help} (default: {values[name].default})' for name in values
  ]
  if 'config' in values:
    lines.append('fields that --config.NAME=VALUE overrides:')
    lines += [f'  {name} = {value!r}' for name, value in validation.flatten(config_lib.Config())]
  return '\n'.join(lines)


def _require_file(thing: str, path: str) -> None:
  if not os.path.isfile(path):
    raise UserError(f'{thing} is {path!r}, which is not a file; give an existing file.')


def _require_writable(thing: str, folder: str) -> None:
  problem = validation.unwritable(folder)
  if problem:
    raise UserError(f'{thing} is {folder!r}: {problem}; choose a folder that you may write to.')


def _hosts() -> int:
  return int(os.environ.get('JAXSEARCH_NUM_PROCESSES', '1'))


def _join_processes() -> None:
  """Joins the other processes of the run if launch/ started several."""
  coordinator = os.environ.get('JAXSEARCH_COORDINATOR', '')
  if not coordinator:
    return
  import jax

  if coordinator == 'auto':  # A pod: the machines know each other.
    jax.distributed.initialize()
  else:
    jax.distributed.initialize(coordinator, _hosts(), int(os.environ['JAXSEARCH_PROCESS_ID']))
