"""RECIPES.md: the comparison as tables, checks and curves; every figure is read from the runs."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.bench import checks, source
from jaxsearch.bench import outcome as outcomes
from jaxsearch.bench.plan import Bench
from jaxsearch.report import figures
from jaxsearch.report import run as runs_on_disk

Runs = Mapping[str, Mapping[int, outcomes.Outcome]]
_HOPS = {'1': '1 hop', '2': '2 hops', '3': '3 hops', '4': '4 hops'}
_HEADER = """# Recipes compared

{recipes} methods on the same worlds, from the same starts, with as many generated tokens each
({tokens:,.0f} or the little more that the last batch makes), at most {seeds} seeds each: a world, a
warm start and a training run, all as in `configs/quickstart.py` at size `{size}`. Pages name the
wrong person of the right surname, the teacher of the warm start mostly answers without a search,
questions need one to four hops. Tested greedily on {questions} held-out questions with the real
retriever: exact match before training {before}.{others}

    {command}

{machine}. Wall time is that of `train`, its start and compilation included, beside whatever else
the machine did. Means ± standard deviation over seeds (n - 1). This file is written by the program.

A model of under a million weights that is trained for a minute or two says which methods work here
as they should, and little about which is best for a large model.
"""


def write(bench: Bench) -> bool:
  """Writes the document and its picture from the runs that are finished; False if none is."""
  runs = _runs(bench)
  if not runs:
    return False
  table = bench.table
  table.parent.mkdir(parents=True, exist_ok=True)
  picture = bench.picture
  _curves(runs, bench.plain, picture)
  parts = [
    _header(bench, runs),
    f'## Results\n\n{_results(runs, bench.plain)}',
    f'## Checks\n\n{checks.table(runs, _before(bench), bench.plain)}',
    f'## What each changes\n\n{_sources(bench, list(runs))}',
    f'## Curves\n\nExact match on dev over the tokens generated so far, a line a seed; plain GRPO '
    f'in grey.\n\n![curves]({os.path.relpath(picture, table.parent)})',
  ]
  partial = table.with_name(table.name + '.partial')
  partial.write_text('\n'.join(parts) + '\n', encoding='utf-8')
  os.replace(partial, table)
  return True


def one_line(folders: Sequence[str]) -> str:
  """A finished run in a line."""
  made = outcomes.read(folders)
  return f'EM {made.em:.2f}, {made.searches:.2f} searches, {made.generated / 1000:.0f} k tokens'


def _runs(bench: Bench) -> Runs:
  found: dict[str, dict[int, outcomes.Outcome]] = {}
  for name in bench.files:
    for seed in bench.seeds:
      made = outcomes.read(bench.folders(name, seed))
      if made is not None:
        found.setdefault(name, {})[seed] = made
  return found


def _before(bench: Bench) -> dict[int, float]:
  starts = {seed: runs_on_disk.load(bench.start(seed)).before for seed in bench.seeds}
  return {seed: before['em'] for seed, before in starts.items() if before}


def _header(bench: Bench, runs: Runs) -> str:
  some = next(iter(next(iter(runs.values())).values()))
  plain = config_lib.read(bench.configs(bench.plain, bench.seeds[0])[0])
  seeds = sorted({seed for made in runs.values() for seed in made})
  return _HEADER.format(
    recipes=len(runs),
    tokens=plain.schedule.generated_tokens,
    seeds=len(seeds),
    size=bench.size,
    questions=some.questions,
    others=_others(bench, runs),
    before=outcomes.spread(list(_before(bench).values())),
    command=bench.command,
    machine=_machine(),
  )


def _others(bench: Bench, runs: Runs) -> str:
  """What the header says of recipes that it is not quite true of."""
  said = []
  for name in runs:
    made = config_lib.read(bench.configs(name, bench.seeds[0])[0])
    if source.has_own_start(made):
      said.append(f'{name.replace("_", " ")} has a warm start of its own, not counted here')
    if made.eval_retrieval.backend == 'none':
      said.append(f'{name.replace("_", " ")} is tested without a retriever')
  return ' But ' + '; '.join(said) + '.' if said else ''


def _machine() -> str:
  text = pathlib.Path('/proc/cpuinfo').read_text() if os.path.exists('/proc/cpuinfo') else ''
  model = re.search(r'model name\s*:\s*(.*)', text)
  return f'{os.cpu_count()} cores of {model.group(1) if model else platform.processor()}'


def _results(runs: Runs, plain: str) -> str:
  columns = ['recipe', 'EM', *_HOPS.values(), 'searches', 'against plain GRPO']
  columns += ['with a signal', 'tokens', 'minutes', 'seeds']
  lines = [_row(columns), '|---' * len(columns) + '|']
  for name, made in runs.items():
    every = list(made.values())
    cells = [name.replace('_', ' '), outcomes.spread([one.em for one in every])]
    by_hops = {h: [o.em_by_hops[h] for o in every if h in o.em_by_hops] for h in _HOPS}
    cells += [f'{np.mean(shares):.2f}' if shares else '–' for shares in by_hops.values()]
    cells += [
      outcomes.spread([one.searches for one in every]),
      '' if name == plain else _against(made, runs.get(plain, {})),
      outcomes.spread([one.signal for one in every]),
      f'{np.mean([one.generated for one in every]) / 1000:.0f} k',
      outcomes.spread([one.minutes for one in every], 1),
      str(len(every)),
    ]
    lines.append(_row(cells))
  told = (
    'Against plain GRPO: mean difference in exact match, seed by seed, ± two standard errors (the '
    'larger of what the seeds show and what the draw of the questions makes). Within them nothing '
    'is shown. With a signal: share of rollouts that are trained with an advantage other than 0.'
  )
  return '\n'.join(lines) + f'\n\n{told}\n'


def _against(made: Mapping[int, outcomes.Outcome], plain: Mapping[int, outcomes.Outcome]) -> str:
  seeds = [seed for seed in made if seed in plain]
  if not seeds:
    return ''
  gain, chance = outcomes.gain([made[s] for s in seeds], [plain[s] for s in seeds])
  verdict = 'helps' if gain > chance else 'hurts' if gain < -chance else 'nothing shown'
  return f'{gain:+.2f} ± {chance:.2f}, {verdict}'


def _sources(bench: Bench, names: Sequence[str]) -> str:
  lines = [_row(['recipe', 'what it is', 'what it changes', 'lines of code']), '|---|---|---|---|']
  seed = bench.seeds[0]
  plain = config_lib.read(bench.configs(bench.plain, seed)[0])
  for name in names:
    phases = [config_lib.read(path) for path in bench.configs(name, seed)]
    told = source.read(bench.files[name], phases, plain)
    changes = '<br>'.join(f'`{change}`' for change in told.changes)
    is_plain = name == bench.plain
    title = 'ReSearch (arXiv 2503.19470): GRPO on its reward' if is_plain else told.title
    lines.append(
      _row([name.replace('_', ' '), title, changes, '' if is_plain else str(told.lines)])
    )
  counted = (
    'Lines of code: of the recipe and of the plug-ins that it names, without imports, comments and '
    'docstrings.'
  )
  return '\n'.join(lines) + f'\n\n{counted}\n'


def _curves(runs: Runs, plain: str, out: pathlib.Path) -> None:
  def draw(name: str, axis: figures.axes.Axes) -> None:
    for made, colour in ((runs.get(plain, {}), figures.GREY), (runs[name], figures.COLOURS[0])):
      for one in made.values():
        tokens, scores = zip(*one.curve, strict=True)
        axis.plot(np.array(tokens) / 1000, scores, color=colour, linewidth=1.4)
    axis.set_title(name.replace('_', ' '), fontsize=9)
    axis.set_ylim(0, 1)
    axis.grid(axis='y', alpha=0.25)

  panels = {name: functools.partial(draw, name) for name in runs if name != plain}
  figures.grid(
    panels or {plain: functools.partial(draw, plain)},
    str(out),
    x='thousand generated tokens',
    y='exact match on dev',
  )


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'
