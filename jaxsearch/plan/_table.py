"""What `plan` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import rich.console
import rich.table

from jaxsearch.plan.chips import GIB
from jaxsearch.plan.figures import Figures
from jaxsearch.plan.programs import Run
from jaxsearch.plan.slices import Slice
from jaxsearch.plan.verdict import Verdict


def show(
  on: Slice, run: Run, figures: Sequence[Figures], judged: Verdict, used: Mapping[str, float]
) -> None:
  """Prints the figures of a run and the verdict, 100 columns wide."""
  console = rich.console.Console(width=100, highlight=False)
  console.print(_title(on, run))
  console.print(_states(run))
  console.print(_memory(figures, judged))
  console.print(_work(on, figures))
  if any(one.collectives for one in figures):
    console.print(_collectives(figures))
  for line in _remarks(on, run, figures, used):
    console.print(line)
  console.print(_judgement(judged), style='bold green' if judged.fits else 'bold red')
  if not judged.fits:
    console.print(_knobs(judged))


def _title(on: Slice, run: Run) -> str:
  shape = ', '.join(f'{name} {n}' for name, n in run.mesh.shape.items())
  hosts = len({d.process_index for d in on.devices})
  many = '1 host' if hosts == 1 else f'{hosts} hosts'
  return (
    f'[bold]{run.size.layers} layers of {run.size.embed:,}, vocabulary {run.size.vocab:,}, on '
    f'{on.name}[/]: {len(on.devices)} chips of {many}, mesh {shape}; decode and extend run '
    'on the chips of one host.'
  )


def _states(run: Run) -> rich.table.Table:
  held = {name: size for name, size in run.states.items() if size}
  table = _empty('What a chip holds', [*held])
  table.add_row(*(f'{size / GIB:.2f}' for size in held.values()))
  table.caption = 'GiB; gradients while the policy is updated only'
  return table


def _memory(figures: Sequence[Figures], judged: Verdict) -> rich.table.Table:
  columns = [
    'program',
    'a call',
    'arguments',
    'temporaries',
    'results',
    'aliased',
    'peak',
    'of HBM',
  ]
  table = _empty('Memory of a chip, GiB', columns, left=2)
  for one in figures:
    sizes = (one.arguments, one.temporaries, one.results, one.aliased, judged.peaks[one.name])
    cells = ['refused' if one.refusal else f'{size / GIB:.2f}' for size in sizes]
    table.add_row(one.name, one.unit, *cells, f'{judged.peaks[one.name] / judged.usable:.0%}')
  table.caption = 'peak: with everything that stays beside, and the code of all programs'
  return table


def _work(on: Slice, figures: Sequence[Figures]) -> rich.table.Table:
  columns = ['program', 'Tflop', 'GB moved', 'GB sent', 'ms at least', 'because of', 'MFU at most']
  table = _empty('Work of a chip and a call', columns)
  for one in figures:
    if one.refusal:
      continue
    times = one.times(on.chip)
    table.add_row(
      one.name,
      f'{one.operations / 1e12:,.2f}',
      f'{one.moved / 1e9:,.1f}',
      f'{sum(one.sent.values()) / 1e9:,.2f}' if one.collectives else '-',
      f'{one.seconds(on.chip) * 1e3:,.1f}',
      max(times, key=lambda name: times[name]),
      f'{one.mfu(on.chip):.0%}' if one.useful else '-',
    )
  return table


def _collectives(figures: Sequence[Figures]) -> rich.table.Table:
  table = _empty('What a chip sends in a call', ['program', 'kind and axis', 'calls', 'GB'], left=2)
  for one in figures:
    for key, sent in sorted(one.sent.items(), key=lambda item: -item[1]):
      calls = sum(c.times for c in one.collectives if f'{c.kind} over {c.axes}' == key)
      if sent > 1e6:
        table.add_row(one.name, key, f'{calls:,.0f}', f'{sent / 1e9:,.3f}')
  table.caption = 'as rings send; what is below 0.001 GB is left out'
  return table


def _remarks(
  on: Slice, run: Run, figures: Sequence[Figures], used: Mapping[str, float]
) -> list[str]:
  lines = []
  for one in figures:
    lines += [f'{one.name} has an {what}: mesh.tensor above 1 splits it.' for what in one.whole]
  if on.chip.kind == 'tpu':
    if not any(one.whole for one in figures):
      lines.append('No program gathers the whole embedding, or logits.')
    (sync,) = (one for one in figures if one.name == 'weight sync')
    copies = sync.arriving / run.weights
    lines.append(
      f'The weight sync brings each host {sync.arriving / 1e9:.2f} GB from others, {copies:.2f} of '
      'what it samples with.'
    )
  else:
    lines.append('Nothing was compiled: temporaries and memory traffic are estimates.')
  return [*lines, f'Planned in {used["seconds"]:.0f} s and {used["host_memory"] / GIB:.1f} GiB.']


def _judgement(judged: Verdict) -> str:
  peak, usable = judged.peaks[judged.largest] / GIB, judged.usable / GIB
  if judged.refused:
    return f'Does not fit: the compiler refuses {", ".join(judged.refused)}.'
  verb = 'Fits' if judged.fits else 'Does not fit'
  return f'{verb}: {judged.largest} takes the most, {peak:.1f} of {usable:.1f} GiB.'


def _knobs(judged: Verdict) -> rich.table.Table:
  table = _empty('What would help, the most first', ['change', 'GiB less, about', 'price'])
  table.columns[2].justify = 'left'
  for knob in judged.knobs:
    table.add_row(knob.change, f'{knob.saved / GIB:.2f}', knob.price)
  return table


def _empty(title: str, columns: Sequence[str], left: int = 1) -> rich.table.Table:
  table = rich.table.Table(title=title, title_justify='left', caption_justify='left')
  for i, column in enumerate(columns):
    table.add_column(column, justify='left' if i < left else 'right')
  return table
