"""The program that a worker process runs: `python -m jaxsearch.retrieval._worker DESCRIPTOR`.

It receives its configuration, opens the backend, says that it is ready and answers batches
until the other end of the connection is gone. A thread watches that end, so that the process
also dies when its parent was killed in the middle of a long search.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

from jaxsearch import plugins
from jaxsearch.retrieval import _checks
from jaxsearch.types import UserError

READY = 'ready'


def main(descriptor: int) -> None:
  """Serves the connection with file descriptor `descriptor`."""
  # Ctrl-C and the notices of cluster managers reach all processes; the parent says what they mean.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  connection = Connection(descriptor)
  received: queue.SimpleQueue = queue.SimpleQueue()
  threading.Thread(target=_listen, args=(connection, received), daemon=True).start()
  settings = received.get()
  try:
    backend = plugins.load('retrieval.backends', settings.backend).open(settings)
  except UserError as error:
    connection.send(str(error))
    return
  except Exception as error:  # The parent reports it to the user.
    connection.send(f'{type(error).__name__} in backend {settings.backend!r}: {error}')
    return
  connection.send(READY)
  while True:
    connection.send(_checks.answers(backend, received.get()))


def _listen(connection: Connection, received: queue.SimpleQueue) -> None:
  try:
    while True:
      received.put(connection.recv())
  except (EOFError, OSError):
    os._exit(0)


if __name__ == '__main__':
  main(int(sys.argv[1]))
