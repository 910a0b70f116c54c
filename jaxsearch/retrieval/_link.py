"""The parent's end of one worker process.

Two threads per worker block on its connection, so that a worker that stops in the middle of a
message stalls nobody. The worker is started as a program of its own and not by multiprocessing,
whose spawned children import the parent's main module, and with it JAX.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import jaxsearch
from jaxsearch import config
from jaxsearch.retrieval import _worker
from jaxsearch.types import SearchRequest, SearchResult

_END_S = 5.0


@dataclasses.dataclass(frozen=True)
class Ready:
  """The worker opened its backend."""

  link: Link


@dataclasses.dataclass(frozen=True)
class Answered:
  """The worker's results for the batch that was sent last."""

  link: Link
  results: list[SearchResult]


@dataclasses.dataclass(frozen=True)
class Died:
  """The worker is gone."""

  link: Link
  reason: str


class Link:
  """A worker process; what happens to it is reported to the queue `events`."""

  def __init__(self, settings: config.Retrieval, events: queue.SimpleQueue):
    self._events = events
    self._outgoing: queue.SimpleQueue = queue.SimpleQueue()
    self._connection, theirs = multiprocessing.Pipe()
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, '-P', '-m', _worker.__name__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=2,  # Standard output belongs to the command that the user runs.
      )
    self._threads = [
      threading.Thread(target=target, daemon=True) for target in (self._talk, self._listen)
    ]
    for thread in self._threads:
      thread.start()
    self._outgoing.put(settings)

  def send(self, requests: Sequence[SearchRequest]) -> None:
    """Hands over a batch; the worker must have answered the one before."""
    self._outgoing.put(requests)

  def kill(self) -> None:
    """Ends the process at once; it holds nothing worth keeping."""
    self._process.kill()

  def join(self) -> None:
    """Waits, but not for ever, until the process is gone."""
    for thread in self._threads:
      thread.join(_END_S)

  def _talk(self) -> None:
    for message in iter(self._outgoing.get, None):
      try:
        self._connection.send(message)
      except OSError:
        return  # The listener sees the end too and reports it.

  def _listen(self) -> None:
    reason = ''
    try:
      while True:
        message: Any = self._connection.recv()
        if message == _worker.READY:
          self._events.put(Ready(self))
        elif isinstance(message, str):
          reason = message
        else:
          self._events.put(Answered(self, message))
    except (EOFError, OSError):
      self._outgoing.put(None)
      self._threads[0].join()
      self._connection.close()
      code = self._process.wait()
      self._events.put(Died(self, reason or f'a retrieval worker ended with exit code {code}'))


def end(links: Sequence[Link]) -> None:
  """Ends the workers and waits until they are gone."""
  for link in links:
    link.kill()
  for link in links:
    link.join()


def _environment() -> dict[str, str]:
  """The worker finds this very package, and one worker is meant to load one core."""
  root = str(pathlib.Path(jaxsearch.__file__).parent.parent)
  path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
  single = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
  return {**single, **os.environ, 'PYTHONPATH': path}
