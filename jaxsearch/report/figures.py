"""Pictures of runs, drawn by matplotlib: as SVG text for the page, as PNG for a README."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib import axes, ticker

COLOURS = ('#4269d0', '#efb118', '#3ca951', '#ff725c', '#9c6bde', '#6cc5b0', '#97bbf5', '#9c6b4e')
_INK = '#565656'
GREY = '#a9afb8'
_STYLE = {
  'axes.edgecolor': _INK,
  'axes.labelcolor': _INK,
  'axes.prop_cycle': matplotlib.cycler(color=COLOURS),
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlecolor': _INK,
  'axes.titlelocation': 'left',
  'axes.titlesize': 11,
  'font.family': 'sans-serif',
  'font.size': 10,
  'legend.frameon': False,
  'legend.labelcolor': _INK,
  'lines.linewidth': 2,
  'svg.fonttype': 'none',
  'svg.hashsalt': 'jaxsearch',  # The same run gives the same bytes.
  'xtick.color': _INK,
  'ytick.color': _INK,
}

Series = Mapping[str, tuple[Sequence[int], Sequence[float]]]


def svg(draw: Callable[[axes.Axes], None], title: str) -> str:
  """One picture as an <svg> element that takes the page's text colour."""
  with matplotlib.rc_context(_STYLE):
    figure = matplotlib.figure.Figure(figsize=(4.4, 2.9), layout='constrained')
    axis = figure.subplots()
    draw(axis)
    # The legend lies between title and picture, where no line can cross it.
    axis.set_title(title, pad=24 if axis.get_legend() else 8)
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue()
  return re.sub(_INK, 'currentColor', text[text.index('<svg') :])


def png(draw: Callable[[Sequence[axes.Axes]], None], out: str, *, columns: int) -> None:
  """A row of `columns` pictures that share their vertical axis, written to `out`."""
  with matplotlib.rc_context(_STYLE):
    size = (max(3.0 * columns, 7.0), 3.4)
    figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
    draw(np.atleast_1d(figure.subplots(1, columns, sharey=True)).tolist())
    figure.savefig(out, dpi=160, facecolor='white')


def grid(
  panels: Mapping[str, Callable[[axes.Axes], None]], out: str, *, x: str, y: str, columns: int = 4
) -> None:
  """Small pictures in rows that share both axes, called `x` and `y`, written to `out`."""
  rows = -(-len(panels) // columns)
  with matplotlib.rc_context(_STYLE):
    size = (2.3 * columns, 1.8 * rows + 0.6)
    figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axis, draw in itertools.zip_longest(places, panels.values()):
      if draw is None:
        axis.remove()
      else:
        draw(axis)
    figure.supxlabel(x, fontsize=10, color=_INK)
    figure.supylabel(y, fontsize=10, color=_INK)
    figure.savefig(out, dpi=130, facecolor='white')


def lines(axis: axes.Axes, series: Series, *, share: bool = False, log: bool = False) -> None:
  """A line per series over the steps.

  Args:
    axis: where to draw.
    series: name -> (steps, values).
    share: values are shares, so that the axis runs from 0 to 1.
    log: values differ by orders of magnitude; beside positive ones, zeros are not drawn.
  """
  log = log and any(value > 0 for _, values in series.values() for value in values)
  for name, (steps, values) in series.items():
    marker = 'o' if len(steps) < 30 else None
    shown = [value if value > 0 or not log else math.nan for value in values]
    axis.plot(steps, shown, marker=marker, markersize=3.5, label=name)
  axis.set_xlabel('step')
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axis.grid(axis='y', alpha=0.25)
  if share:
    axis.set_ylim(0, 1.04)
  elif log:
    axis.set_yscale('log')
  else:
    axis.set_ylim(bottom=0)
  _legend(axis, len(series))


def stacked(axis: axes.Axes, series: Series) -> None:
  """Areas that add up, over the steps; a step without a value of a series counts as 0."""
  ranked = sorted(series.items(), key=lambda item: -sum(item[1][1]))
  steps = sorted({step for known, _ in series.values() for step in known})
  rows = []
  for _, (known, values) in ranked:
    at = dict(zip(known, values, strict=True))
    rows.append([at.get(step, 0.0) for step in steps])
  axis.stackplot(steps, rows, labels=[name for name, _ in ranked], alpha=0.85, step='mid')
  axis.set_xlabel('step')
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  _legend(axis, len(series))


def grouped_bars(
  axis: axes.Axes, groups: Mapping[str, Mapping[str, float]], *, top: float | None
) -> None:
  """Bars side by side, that called 'after' in colour.

  Args:
    axis: where to draw.
    groups: name in the legend -> {position on the axis: value}.
    top: end of the vertical axis; None: above the highest bar.
  """
  places = sorted({place for bars in groups.values() for place in bars})
  width = 0.8 / max(len(groups), 1)
  for i, (name, bars) in enumerate(groups.items()):
    colour = COLOURS[0] if name == 'after' else GREY
    left = np.arange(len(places)) + (i - (len(groups) - 1) / 2) * width
    values = [bars.get(place, 0.0) for place in places]
    drawn = axis.bar(left, values, width * 0.92, label=name, color=colour)
    axis.bar_label(drawn, fmt='%.2f', fontsize=8, color=_INK)
  axis.set_xticks(range(len(places)), places)
  axis.set_xlabel('hops')
  highest = max((value for bars in groups.values() for value in bars.values()), default=1.0)
  axis.set_ylim(0, 1.1 * (top or highest or 1.0))
  _legend(axis, len(groups))


def _legend(axis: axes.Axes, count: int) -> None:
  axis.legend(
    ncols=count,
    loc='lower left',
    bbox_to_anchor=(-0.02, 1.0),
    fontsize=8.5,
    borderpad=0.2,
    handlelength=1.1,
    handletextpad=0.4,
    columnspacing=0.9,
  )


def interval_bars(axis: axes.Axes, rows: Sequence[tuple[str, float, float]]) -> None:
  """A horizontal bar per row (name, value, half width of its interval); grey first one on top."""
  names, values, halves = zip(*rows, strict=True)
  colours = [GREY] + [COLOURS[0]] * (len(rows) - 1)
  error = {'ecolor': _INK, 'elinewidth': 1, 'capsize': 3}
  drawn = axis.barh(names, values, 0.66, xerr=halves, color=colours, error_kw=error)
  axis.bar_label(drawn, fmt='%.2f', padding=6, color=_INK)
  axis.invert_yaxis()
  axis.set_xlim(0, 1.15)
  axis.set_axisbelow(True)
  axis.grid(axis='x', alpha=0.25)
