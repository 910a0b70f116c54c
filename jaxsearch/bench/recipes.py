"""Every recipe against plain GRPO: the same worlds, the same starts, as many generated tokens.

Runs are ordinary verbs in processes of their own. What is finished is not done again, a run that
was broken off goes on, and the document, of all that is finished, is written anew after each.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import rich.console

from jaxsearch import config as config_lib
from jaxsearch import fields, plugins
from jaxsearch.bench import document
from jaxsearch.bench.plan import BASE, Bench, Step
from jaxsearch.types import UserError

_FOLDER = 'configs/recipes'
# With these nothing, or nothing but searching, may be learnt.
_CONTROLS = {
  name: f'configs/ablations/{name}.py'
  for name in ('random_documents', 'random_documents_exact', 'shuffled_rewards')
}
# Fields that say where things lie, and how the start was made.
_PLACES = ('run_dir', 'policy.', 'model.', 'questions.train', 'questions.dev', 'warmstart.')
_PLACES += ('retrieval.index', 'eval_retrieval.index')


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
  failed: list[str] = []
  startless: set[int] = set()
  todo = [(name, seed) for seed in bench.seeds for name in bench.only]
  for number, (name, seed) in enumerate(todo, start=1):
    _refuse_another(bench, name, seed)
    run = bench.run(name, seed)
    if seed in startless or (run / 'eval_after' / 'summary.json').exists():
      continue
    if time.monotonic() > until:
      console.print(f'{minutes:g} minutes are over; the same command goes on from here.')
      break
    began, told = time.monotonic(), f'{number}/{len(todo)}  {name}, seed {seed}'
    problem = _make(bench.start(seed), bench.prepare(seed))
    startless |= {seed} if problem else set()
    problem = problem or _make(run, bench.improve(name, seed))
    if problem:
      failed.append(problem)
      console.print(f'{told}: failed')
      continue
    document.write(bench)
    made = document.one_line(bench.folders(name, seed))
    console.print(f'{told}: {made}, {time.monotonic() - began:.0f} s')
  if document.write(bench):
    console.print(f'{bench.table} is written.')
  if failed:
    raise UserError('; '.join(failed) + '. Mend that and give the same command again.')


def _files() -> dict[str, str]:
  found = sorted(pathlib.Path(_FOLDER).glob('*.py'))
  if not found:
    raise UserError(f'there is no {_FOLDER} here; run this in a checkout of jaxsearch.')
  return {Bench.plain: BASE, **{path.stem: str(path) for path in found}, **_CONTROLS}


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


def _make(folder: pathlib.Path, steps: Iterable[Step]) -> str:
  """Takes the steps whose result is missing; 'FOLDER: what went wrong', or nothing."""
  folder.mkdir(parents=True, exist_ok=True)
  for made, command in steps:
    if not made.exists() and not _call(command, folder):
      return f'{folder}: `jaxsearch {command[0]}` failed, log.txt in there says why'
  return ''


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
