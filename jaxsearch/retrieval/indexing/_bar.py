"""The bar that a terminal shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO

import rich.console
import rich.progress
import rich.text


@contextlib.contextmanager
def bar(
  file: TextIO, name: str, total: float, unit: str, done: float
) -> Iterator[Callable[[float], None]]:
  """Shows a bar with rate and remaining time while the block runs; see `Progress.stage`."""
  columns = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.TaskProgressColumn(),
    _Rate(),
    rich.progress.TimeRemainingColumn(),
  )
  console = rich.console.Console(file=file)
  with rich.progress.Progress(*columns, console=console, transient=True) as shown:
    task = shown.add_task(name, total=total, completed=done, unit=unit)
    yield lambda count: shown.advance(task, count)


class _Rate(rich.progress.ProgressColumn):
  """Units a second."""

  def render(self, task: rich.progress.Task) -> rich.text.Text:
    return rich.text.Text(f'{task.speed or 0:,.0f} {task.fields["unit"]}/s')
