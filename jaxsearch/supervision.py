"""What the process of a verb tells its parent, where it has one that watches it.

The parent is `cli/_supervisor.py`; `DESCRIPTOR` names the variable with its end of a connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

DESCRIPTOR = 'JAXSEARCH_SUPERVISOR'


def tell(word: str, value: object = None) -> None:
  """Sends (word, value), if there is a parent: see `cli/_supervisor.py` for the words."""
  if DESCRIPTOR in os.environ:
    with contextlib.suppress(OSError), _connection() as connection:
      connection.send((word, value))


def end_with_parent() -> None:
  """From now on this process dies when its parent does, whatever it is busy with."""
  threading.Thread(target=_await_end, daemon=True).start()


class Watchdog:
  """`with watchdog():` ends this process if the block takes longer than `limit_s` seconds.

  Only a parent does so: a process that hangs in a program of the accelerator cannot. The first
  block is not limited, as programs are loaded and connections opened in it.
  """

  def __init__(self, limit_s: float):
    self._limit_s, self._is_armed = limit_s, False

  @contextlib.contextmanager
  def __call__(self) -> Iterator[None]:
    if self._is_armed:
      tell('limit', self._limit_s)
    try:
      yield
    finally:
      tell('limit')
    self._is_armed = True


def _connection() -> Connection:
  """A connection that can be closed without closing the others."""
  return Connection(os.dup(int(os.environ[DESCRIPTOR])))


def _await_end() -> None:
  with contextlib.suppress(EOFError, OSError), _connection() as connection:
    connection.recv()  # Parents say nothing.
  os.kill(os.getpid(), signal.SIGKILL)
