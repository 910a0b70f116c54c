"""A worker process: `python -m jaxsearch.retrieval.pooling.worker DESCRIPTOR`.

It receives its job, opens what its stage needs, says that it is ready and answers batches until the
other end of the connection is gone. A thread watches that end, so that the process also dies when
its parent was killed in the middle of a long search.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection

from jaxsearch import config
from jaxsearch.types import UserError


@dataclasses.dataclass(frozen=True)
class Job:
  """What a worker is for.

  Attributes:
    stage: name of the stage.
    settings: of retrieval.
    cores: on which it runs; none: on any.
  """

  stage: str
  settings: config.Retrieval
  cores: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Opened:
  """The worker is ready; `identity`: see `stages.open`."""

  identity: str


def main(descriptor: int) -> None:
  """Serves the connection with file descriptor `descriptor`."""
  # Ctrl-C and the notices of cluster managers reach all processes; the parent says what they mean.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  connection = Connection(descriptor)
  received: queue.SimpleQueue = queue.SimpleQueue()
  threading.Thread(target=_listen, args=(connection, received), daemon=True).start()
  job = received.get()
  _confine(job)
  try:
    # Only now: libraries count the cores that they may use when they are imported.
    from jaxsearch.retrieval.pooling import stages

    work, identity = stages.open(job.stage, job.settings)
  except UserError as error:
    connection.send(str(error))
    return
  except MemoryError:
    given = f'retrieval.worker_gib is {job.settings.worker_gib}'
    connection.send(f'{given}: too little to open stage {job.stage}. Give more, or 0 for no limit.')
    return
  except Exception as error:  # The parent reports it to the user.
    name = f'{job.stage} of the backend {job.settings.backend!r}'
    connection.send(f'{type(error).__name__} in {name}: {error}')
    return
  connection.send(Opened(identity))
  while True:
    connection.send(work(received.get()))


def _confine(job: Job) -> None:
  """To its cores and its memory: an allocation beyond fails, which is a failed search."""
  if job.cores:
    os.sched_setaffinity(0, job.cores)
  if job.settings.worker_gib:
    most = int(job.settings.worker_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # Mapped files do not count.


def _listen(connection: Connection, received: queue.SimpleQueue) -> None:
  try:
    while True:
      received.put(connection.recv())
  except (EOFError, OSError):
    os._exit(0)


if __name__ == '__main__':
  # Under its own name, by which the parent knows what it sends.
  from jaxsearch.retrieval.pooling import worker

  worker.main(int(sys.argv[1]))
