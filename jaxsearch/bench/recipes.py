"""Every recipe against plain GRPO: the same worlds, the same starts, as many generated tokens.

Each seed has a world, a warm start and a place for every recipe:

  OUT/start/SEED/       world/ index/ warmstart/ eval_before/
  OUT/RECIPE/SEED/      what `train` and `eval` write, log.txt, usage.jsonl

Runs are ordinary verbs in processes of their own. What is finished is not done again, a run that
was broken off goes on, and the document, of all that is finished, is written anew after each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import rich.console

from jaxsearch import config as config_lib
from jaxsearch import fields, plugins
from jaxsearch.bench import document, source
from jaxsearch.types import UserError

_BASE = 'configs/quickstart.py'
_FOLDER = 'configs/recipes'
# With these nothing, or nothing but searching, may be learnt.
_CONTROLS = {
  name: f'configs/ablations/{name}.py'
  for name in ('random_documents', 'random_documents_exact', 'shuffled_rewards')
}
_SPLITS = ('train', 'dev', 'test')
# Fields that say where things lie, and how the start was made.
_PLACES = ('run_dir', 'policy.', 'model.', 'questions.train', 'questions.dev', 'warmstart.')
_PLACES += ('retrieval.index', 'eval_retrieval.index')


@dataclasses.dataclass(frozen=True)
class Bench:
  """What is compared, and where.

  Attributes:
    out: folder of the runs.
    table, picture: Markdown file and PNG to write.
    size: of the world: hard or hard-ci.
    seeds: one world and one start each.
    files: recipe -> its configuration file, plain GRPO first; those that are finished are written
      down.
    only: recipes that are run.
  """

  out: pathlib.Path
  table: pathlib.Path
  picture: pathlib.Path
  size: str
  seeds: tuple[int, ...]
  files: Mapping[str, str]
  only: tuple[str, ...]
  plain: ClassVar[str] = 'grpo'

  @property
  def command(self) -> str:
    """Makes all that is written down."""
    flags = {'out': self.out, 'table': self.table, 'picture': self.picture}
    flags |= {} if self.size == 'hard' else {'size': self.size}
    flags |= {'seeds': ','.join(map(str, self.seeds))}
    return ' '.join(['jaxsearch bench recipes', *(f'--{k}={v}' for k, v in flags.items())])

  def start(self, seed: int) -> pathlib.Path:
    """Folder of world, indexes and warm start."""
    return self.out / 'start' / str(seed)

  def run(self, name: str, seed: int) -> pathlib.Path:
    """Run directory of one recipe."""
    return self.out / name / str(seed)

  def configs(self, name: str, seed: int) -> list[str]:
    """The configurations of a recipe's phases, in order, as --config takes them."""
    arguments = f'{self.size},{self.start(seed)},{self.run(name, seed)}'
    file = self.files[name]
    phases = [path.partition(':')[2] for path in config_lib.phases(file)]
    return [f'{file}:{arguments}' + (f',{p.rpartition(",")[2]}' if p else '') for p in phases]

  def folders(self, name: str, seed: int) -> list[str]:
    """Run directories of a recipe's phases, in order; the last is `run`."""
    return [config_lib.read(path).run_dir for path in self.configs(name, seed)]


def recipes(
  out: str,
  table: str,
  picture: str,
  *,
  size: str,
  seeds: Sequence[int],
  only: Sequence[str],
  minutes: float,
) -> None:
  """Makes what is missing of the comparison, seed by seed, and writes it down.

  Args:
    out: folder of the runs.
    table, picture: Markdown file and PNG to write.
    size: of the world.
    seeds: one world and one start each.
    only: names of files in configs/recipes/, and controls; empty: all. Plain GRPO is always run.
    minutes: no run is begun after this long; 0: no limit.

  Raises:
    UserError: for an unknown recipe; lists the runs that failed.
  """
  files = _files()
  run_only = (Bench.plain, *_named(only, files)) if only else tuple(files)
  paths = map(pathlib.Path, (out, table, picture))
  bench = Bench(*paths, size, tuple(seeds), files, run_only)
  _claim(bench)
  until = time.monotonic() + 60 * minutes if minutes else float('inf')
  console = rich.console.Console(highlight=False)
  failed: dict[str, None] = {}
  todo = [(name, seed) for seed in bench.seeds for name in bench.only]
  for number, (name, seed) in enumerate(todo, start=1):
    run = bench.run(name, seed)
    _refuse_another(bench, name, seed)
    is_startless = any(problem.startswith(f'{bench.start(seed)}:') for problem in failed)
    if is_startless or (run / 'eval_after' / 'summary.json').exists():
      continue
    if time.monotonic() > until:
      console.print(f'{minutes:g} minutes are over; the same command goes on from here.')
      break
    began = time.monotonic()
    problem = _make(bench, name, seed)
    if problem:
      failed[problem] = None
      console.print(f'{number}/{len(todo)}  {name}, seed {seed}: failed')
      continue
    document.write(bench)
    told = document.one_line(bench.folders(name, seed))
    seconds = time.monotonic() - began
    console.print(f'{number}/{len(todo)}  {name}, seed {seed}: {told}, {seconds:.0f} s')
  if document.write(bench):
    console.print(f'{bench.table} is written.')
  if failed:
    raise UserError('; '.join(failed) + '. Mend that and give the same command again.')


def _files() -> dict[str, str]:
  found = sorted(pathlib.Path(_FOLDER).glob('*.py'))
  if not found:
    raise UserError(f'there is no {_FOLDER} here; run this in a checkout of jaxsearch.')
  return {Bench.plain: _BASE, **{path.stem: str(path) for path in found}, **_CONTROLS}


def _named(only: Sequence[str], known: Mapping[str, str]) -> list[str]:
  for name in only:
    if name not in known:
      raise UserError(
        f'there is no recipe {name!r} in {_FOLDER}.{plugins.nearest(name, known)} Choices: '
        f'{", ".join(known)}.'
      )
  return [name for name in only if name != Bench.plain]


def _claim(bench: Bench) -> None:
  """Writes down what the folder is for: worlds of one size and nothing else."""
  path = bench.out / 'bench.json'
  if path.exists():
    size = json.loads(path.read_text())['size']
    if size != bench.size:
      raise UserError(f'{bench.out} holds runs of --size={size}; choose another --out.')
    return
  bench.out.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({'size': bench.size}) + '\n')


def _refuse_another(bench: Bench, name: str, seed: int) -> None:
  for path in bench.configs(name, seed):
    config = config_lib.read(path)
    written = pathlib.Path(config.run_dir) / 'config.json'
    if written.exists():
      config.seed = seed
      differing = fields.differences(json.loads(written.read_text()), config, _PLACES)
      if differing:
        raise UserError(
          f'{config.run_dir} was made with another configuration: {"; ".join(differing)}. Remove '
          'that folder, or choose another --out.'
        )


def _make(bench: Bench, name: str, seed: int) -> str:
  """Makes one run; 'FOLDER: what went wrong', or nothing."""
  for folder, commands in (
    (bench.start(seed), _prepare(bench, seed)),
    (bench.run(name, seed), _improve(bench, name, seed)),
  ):
    folder.mkdir(parents=True, exist_ok=True)
    for made, command in commands:
      if not made.exists() and not _call(command, folder):
        return f'{folder}: `jaxsearch {command[0]}` failed, log.txt in there says why'
  return ''


def _prepare(bench: Bench, seed: int) -> Iterator[tuple[pathlib.Path, list[str]]]:
  """(what it makes, command) of a start."""
  start = bench.start(seed)
  world, base = start / 'world', [f'--config={_BASE}:{bench.size},{start}', f'--config.seed={seed}']
  yield (
    world / 'world.json',
    ['world', f'--out={world}', f'--seed={seed}', f'--size={bench.size}'],
  )
  for split in _SPLITS:
    index = start / 'index' / split
    yield index, ['index', f'--corpus={world}/{split}/corpus.jsonl', f'--out={index}']
  yield start / 'warmstart' / 'policy', ['warmstart', *base]
  yield (
    start / 'eval_before' / 'summary.json',
    _test(base, start, 'warmstart/policy', start, 'eval_before'),
  )


def _improve(bench: Bench, name: str, seed: int) -> Iterator[tuple[pathlib.Path, list[str]]]:
  """(what it makes, command) of one recipe."""
  run = bench.run(name, seed)
  for path in bench.configs(name, seed):
    made = config_lib.read(path)
    config = [f'--config={path}', f'--config.seed={seed}']
    own = pathlib.Path(made.run_dir)
    if source.has_own_start(made):
      yield own / 'warmstart' / 'policy', ['warmstart', *config]
    yield own / 'policy', ['train', *config]
  summary = run / 'eval_after' / 'summary.json'
  yield summary, _test(config, bench.start(seed), 'policy', run, 'eval_after')


def _test(
  config: Sequence[str], start: pathlib.Path, policy: str, run: pathlib.Path, out: str
) -> list[str]:
  questions, index = f'{start}/world/test/questions.jsonl', f'{start}/index/test'
  where = [f'--policy={run}/{policy}', f'--questions={questions}', f'--index={index}']
  return ['eval', *config, *where, f'--out={run}/{out}']


def _call(command: Sequence[str], folder: pathlib.Path) -> bool:
  """Runs a verb in a process of its own, which ends with this one; whether it succeeded."""
  compiled = os.environ.get('JAX_COMPILATION_CACHE_DIR', os.path.abspath('runs/.compiled'))
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': compiled,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
    'JAXSEARCH_USAGE': str(folder / 'usage.jsonl'),
  }
  with open(folder / 'log.txt', 'a', encoding='utf-8') as log:
    print('==', *command, file=log, flush=True)
    program = [sys.executable, '-m', 'jaxsearch', *command]
    with subprocess.Popen(program, env=environment, stdout=log, stderr=log) as process:
      before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
      try:
        return not process.wait()
      finally:
        process.kill()
        signal.signal(signal.SIGTERM, before)
