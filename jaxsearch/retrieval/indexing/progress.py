"""How far the stages of a build are: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO


class Progress:
  """Shows one stage after the other; a short build leaves no trace."""

  def __init__(self, file: TextIO | None = None, every_s: float = 30.0):
    """Shows in `file`, by default standard error; plain lines come every `every_s` seconds."""
    self._file = file or sys.stderr
    self._every_s = every_s

  @contextlib.contextmanager
  def stage(
    self, name: str, total: float, unit: str, done: float = 0
  ) -> Iterator[Callable[[float], None]]:
    """Yields a function that is told how many units more are done; `done` were done before."""
    if not self._file.isatty():
      yield _Lines(self._file, self._every_s, (name, unit), total, done).advance
      return
    from jaxsearch.retrieval.indexing import _bar  # Its library takes a while to import.

    with _bar.bar(self._file, name, total, unit, done) as advance:
      yield advance


class _Lines:
  """The same in plain lines."""

  def __init__(
    self, file: TextIO, every_s: float, what: tuple[str, str], total: float, done: float
  ):
    self._file, self._every_s, self._total = file, every_s, total
    self._name, self._unit = what
    self._before = self._done = done
    self._start = self._shown = time.monotonic()

  def advance(self, count: float) -> None:
    """Notes `count` units more, and says so if it is time."""
    self._done += count
    now = time.monotonic()
    if now - self._shown < self._every_s:
      return
    self._shown = now
    rate = (self._done - self._before) / (now - self._start)
    left = datetime.timedelta(seconds=round((self._total - self._done) / max(rate, 1e-9)))
    print(
      f'{self._name}: {self._done / max(self._total, 1):.0%} of {self._total:,.0f} {self._unit}, '
      f'{rate:,.0f} {self._unit}/s, {left} left',
      file=self._file,
      flush=True,
    )
