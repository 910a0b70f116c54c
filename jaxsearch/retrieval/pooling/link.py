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
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import jaxsearch
from jaxsearch.retrieval.pooling import worker

_END_S = 5.0
# Of worker processes, where the user says nothing else. One of them is meant to load one core, and
# glibc is not to give the arrays of a search back to the kernel and ask for them again, page by
# page: BM25 took 1.4 times as long.
_SETTINGS = {
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'MALLOC_MMAP_THRESHOLD_': str(2**25),
  'MALLOC_TRIM_THRESHOLD_': str(2**27),
}


@dataclasses.dataclass(frozen=True)
class Ready:
  """The worker has opened what it needs; `identity`: what its answers depend on."""

  link: Link
  identity: str


@dataclasses.dataclass(frozen=True)
class Answered:
  """The worker's answers to the batch that was sent last, as they came."""

  link: Link
  data: bytes

  def answers(self) -> list[Any]:
    """Reads them, which takes a while: what the worker does next is to be sent before."""
    return pickle.loads(self.data)


@dataclasses.dataclass(frozen=True)
class Died:
  """The worker is gone."""

  link: Link
  reason: str


class Link:
  """A worker process; what happens to it is reported to the queue `events`.

  Attributes:
    job: what it was started for.
  """

  def __init__(self, job: worker.Job, events: queue.SimpleQueue):
    self.job = job
    self._events = events
    self._outgoing: queue.SimpleQueue = queue.SimpleQueue()
    self._connection, theirs = multiprocessing.Pipe()
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, '-P', '-m', worker.__name__, str(theirs.fileno())],
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
    self._outgoing.put(job)

  def again(self) -> Link:
    """Another process for the same job."""
    return Link(self.job, self._events)

  def send(self, batch: Sequence[Any]) -> None:
    """Hands over a batch; the worker must have answered the one before."""
    self._outgoing.put(batch)

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
    reason, is_open = '', False
    try:
      while True:
        data = self._connection.recv_bytes()
        if is_open:
          self._events.put(Answered(self, data))
          continue
        message = pickle.loads(data)
        is_open = isinstance(message, worker.Opened)
        if is_open:
          self._events.put(Ready(self, message.identity))
        else:
          reason = message
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
  """The worker finds this very package, and leaves accelerators to the trainer.

  JAXSEARCH_ENCODERS_ON names another JAX platform for models, such as cuda where one is free.
  """
  root = str(pathlib.Path(jaxsearch.__file__).parent.parent)
  path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
  platform = os.environ.get('JAXSEARCH_ENCODERS_ON', 'cpu')
  return {**_SETTINGS, **os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': platform}
