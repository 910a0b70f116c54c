"""What a comparison consists of: where everything lies, and the commands that make it.

Each seed has a world, a warm start and a place for every recipe:

  OUT/start/SEED/       world/ index/ warmstart/ eval_before/
  OUT/RECIPE/SEED/      what `train` and `eval` write, log.txt, usage.jsonl
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from jaxsearch import config as config_lib
from jaxsearch.bench import source

BASE = 'configs/quickstart.py'
_SPLITS = ('train', 'dev', 'test')
# What a command makes, and its arguments.
Step = tuple[pathlib.Path, list[str]]


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

  def prepare(self, seed: int) -> Iterator[Step]:
    """(what it makes, command) of a start."""
    start = self.start(seed)
    world, base = start / 'world', [f'--config={BASE}:{self.size},{start}', f'--config.seed={seed}']
    yield (
      world / 'world.json',
      ['world', f'--out={world}', f'--seed={seed}', f'--size={self.size}'],
    )
    for split in _SPLITS:
      index = start / 'index' / split
      yield index, ['index', f'--corpus={world}/{split}/corpus.jsonl', f'--out={index}']
    yield start / 'warmstart' / 'policy', ['warmstart', *base]
    yield (
      start / 'eval_before' / 'summary.json',
      _test(base, start, 'warmstart/policy', start, 'eval_before'),
    )

  def improve(self, name: str, seed: int) -> Iterator[Step]:
    """(what it makes, command) of one recipe."""
    run = self.run(name, seed)
    for path in self.configs(name, seed):
      made = config_lib.read(path)
      config = [f'--config={path}', f'--config.seed={seed}']
      own = pathlib.Path(made.run_dir)
      if source.has_own_start(made):
        yield own / 'warmstart' / 'policy', ['warmstart', *config]
      yield own / 'policy', ['train', *config]
    summary = run / 'eval_after' / 'summary.json'
    yield summary, _test(config, self.start(seed), 'policy', run, 'eval_after')


def _test(
  config: Sequence[str], start: pathlib.Path, policy: str, run: pathlib.Path, out: str
) -> list[str]:
  questions, index = f'{start}/world/test/questions.jsonl', f'{start}/index/test'
  where = [f'--policy={run}/{policy}', f'--questions={questions}', f'--index={index}']
  return ['eval', *config, *where, f'--out={run}/{out}']
