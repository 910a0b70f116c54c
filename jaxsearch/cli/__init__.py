"""The command line: `jaxsearch <verb> [flags]`.

The only place that knows flags. Each verb parses its own flags, has the configuration checked
and calls one function; it imports what it needs when it runs, so that `world`, `index` and
`report` never start JAX. What the user can mend ends as one paragraph on stderr and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from jaxsearch import config as config_lib
from jaxsearch import plugins, supervision, validation
from jaxsearch.cli import (
  _bench,
  _checkpoints,
  _flags,
  _index,
  _paths,
  _plan,
  _processes,
  _results,
  _serve,
  _supervisor,
  _usage,
  _versions,
)
from jaxsearch.interruption import TRY_AGAIN, Interrupted
from jaxsearch.types import UserError

_STOPPED = 130  # What shells report of programs that Ctrl-C ended.


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb, under a parent that watches it if it is one of several processes.

  Args:
    argv: arguments after the program's name; None: those of the process.

  Returns:
    0; 2 if the user has something to mend; `interruption.TRY_AGAIN` if it was told to stop or
    another process was lost, and the same command goes on; 130 after Ctrl-C.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  if not (arguments and arguments[0] in _TOGETHER and _processes.coordinator()):
    return _run(arguments)
  if supervision.DESCRIPTOR in os.environ:
    return _processes.beside_others(lambda: _run(arguments))
  return _supervisor.supervise(arguments)


def _run(arguments: list[str]) -> int:
  verb, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
  try:
    if verb in ('--help', '-h', 'help'):
      print(_overview())
    elif verb not in _VERBS:
      raise UserError(
        f'there is no verb {verb!r}.{plugins.nearest(verb, _VERBS)} Choices: {", ".join(_VERBS)}.'
      )
    else:
      with _usage.usage(verb):
        _VERBS[verb](rest)
  except _flags.Help as help:
    print(f'jaxsearch {verb}: {_VERBS[verb].__doc__}\n{help}')
  except (UserError, Interrupted) as error:
    print(f'jaxsearch {verb if verb in _VERBS else ""}'.rstrip() + f': {error}', file=sys.stderr)
    return TRY_AGAIN if isinstance(error, Interrupted) else 2
  except KeyboardInterrupt:
    print(f'jaxsearch {verb}: stopped; the same command begins again.', file=sys.stderr)
    return _STOPPED
  return 0


def _world(argv: list[str]) -> None:
  """Write a synthetic world: documents, questions, demonstrations and a tokenizer."""
  values = flags.FlagValues()
  out = flags.DEFINE_string('out', None, 'Folder to write.', values, required=True)
  seed = flags.DEFINE_integer('seed', 0, 'Another seed is another world.', flag_values=values)
  size = flags.DEFINE_enum(
    'size', 'default', ['default', 'ci', 'hard', 'hard-ci'], 'ci: far smaller.', values
  )
  audit = flags.DEFINE_bool('audit', False, 'Also measure that the task needs search.', values)
  _flags.parse('world', values, argv)
  _paths.require_writable('--out', out.value)
  from jaxsearch import world

  print(json.dumps(world.write(out.value, seed.value, world.SIZES[size.value]), indent=2))
  if audit.value:
    found = world.audit(out.value)
    world.show_audit(found)
    failed = [name for name, check in found['checks'].items() if not check['passed']]
    if failed:
      raise UserError(
        f'the world in {out.value!r} fails its audit: {", ".join(failed)}. Do not train on it; '
        'another --seed makes another one.'
      )


def _warmstart(argv: list[str]) -> None:
  """Make a policy by supervised training on demonstrations, or a simulated search engine."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  tasks = ['search', 'simulator']
  task = flags.DEFINE_enum('task', tasks[0], tasks, 'Demonstrations or records.', values)
  _flags.parse('warmstart', values, rest)
  config = values['config'].value
  verb = 'warmstart' if task.value == tasks[0] else f'warmstart --task={task.value}'
  validation.validate(config, verb, hosts=_processes.count())
  _processes.join()
  from jaxsearch import warmstart

  warmstart.warmstart(config, task.value)


def _train(argv: list[str]) -> None:
  """Train a policy by reinforcement learning; the same command again resumes."""
  path, rest = _flags.split_config(argv)
  phases = []
  for phase in config_lib.phases(path) if path else ['']:
    made = [os.path.join(before.run_dir, 'policy') for before in phases]
    phases.append(_flags.config_only('train', [f'--config={phase}', *rest], made))
  folders = [phase.run_dir for phase in phases]
  if len(set(folders)) < len(folders):
    raise UserError(
      f'the phases of {path} write to {", ".join(folders)}; give each its own run_dir.'
    )
  _processes.join()
  from jaxsearch import trainer

  for config in phases:
    trainer.train(config)


def _eval(argv: list[str]) -> None:
  """Score a policy on every question of a file."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  out = flags.DEFINE_string('out', '', 'Folder to write; empty: run_dir/eval.', values)
  samples = flags.DEFINE_integer(
    'samples', 0, 'Sampled answers per question for pass@k; 0: greedy only.', 0, flag_values=values
  )
  config = _flags.policy_config('eval', values, rest)
  if not (out.value or config.run_dir):
    raise UserError('both --out and run_dir are empty; say where to write with --out=FOLDER.')
  folder = out.value or os.path.join(config.run_dir, 'eval')
  _paths.require_writable('--out', folder)
  _processes.join()
  from jaxsearch import evaluation

  evaluation.evaluate(config, **_flags.where(config), out=folder, samples=samples.value)


def _difficulty(argv: list[str]) -> None:
  """Label a question file with how many rollouts a policy needs."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  out = flags.DEFINE_string('out', None, 'Question file to write.', values, required=True)
  samples = flags.DEFINE_integer('samples', 20, 'Rollouts of each.', 1, flag_values=values)
  config = _flags.policy_config('difficulty', values, rest)
  _paths.require_file_place('--out', out.value)
  _processes.join()
  from jaxsearch import evaluation

  evaluation.difficulty(config, **_flags.where(config), out=out.value, samples=samples.value)


def _collect(argv: list[str]) -> None:
  """Write down what a policy's searches find: the records that a simulator learns from."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  out = flags.DEFINE_string('out', None, 'File of records to write.', values, required=True)
  samples = flags.DEFINE_integer('samples', 1, 'Rollouts of each.', 1, flag_values=values)
  config = _flags.policy_config('collect', values, rest, 'questions.train', 'retrieval.index')
  _paths.require_file_place('--out', out.value)
  _processes.join()
  from jaxsearch import collection

  collection.collect(
    config,
    policy=config.policy.path,
    questions=config.questions.train,
    out=out.value,
    samples=samples.value,
  )


def _ask(argv: list[str]) -> None:
  """Answer one question and show the searches in colour."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  policy = flags.DEFINE_string('policy', '', 'Policy folder; empty: policy.path.', values)
  index = flags.DEFINE_string('index', '', 'Empty: eval_retrieval.index.', values)
  question = flags.DEFINE_string('question', None, 'What to answer.', values, required=True)
  _flags.parse('ask', values, rest)
  config = values['config'].value
  config.policy.path = policy.value or config.policy.path
  config.eval_retrieval.index = index.value or config.eval_retrieval.index
  validation.validate(config, 'ask')
  _versions.warn_if_untested()
  from jaxsearch import evaluation

  evaluation.ask(
    config,
    policy=config.policy.path,
    index=config.eval_retrieval.index,
    question=question.value,
  )


_VERBS: Mapping[str, Callable[[list[str]], None]] = {
  'world': _world,
  'index': _index.index,
  'warmstart': _warmstart,
  'eval': _eval,
  'difficulty': _difficulty,
  'collect': _collect,
  'train': _train,
  'plan': _plan.plan,
  'report': _results.report,
  'ask': _ask,
  'serve': _serve.serve,
  'import': _checkpoints.import_policy,
  'export': _checkpoints.export_policy,
  'bench': _bench.bench,
}
# Verbs that several processes run together.
_TOGETHER = ('warmstart', 'train', 'eval', 'difficulty', 'collect')


def _overview() -> str:
  lines = [f'  {name:<10} {function.__doc__}' for name, function in _VERBS.items()]
  return 'usage: jaxsearch VERB [flags]; verbs:\n' + '\n'.join(
    [*lines, '`jaxsearch VERB --help` prints the flags of one.']
  )
