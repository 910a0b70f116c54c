"""The parent of a verb that runs as one of several processes: says why it ended, never hangs.

JAX aborts a process when another one of the run dies, and no code of that process runs any more. So
the verb runs in a child, and this parent, which never imports JAX, tells the user what happened,
ends what the child leaves behind and returns a code that launchers understand. The child tells it:

  joined           JAX knows the other processes
  run DIR          the run directory whose checkpoints it writes
  limit SECONDS    it is to be ended unless it says `limit None` before
  ends CODE        it ends of its own accord, with this code
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import FrameType
from typing import IO

from jaxsearch import supervision
from jaxsearch.cli import _processes
from jaxsearch.interruption import TRY_AGAIN

_END_S = 5.0  # A process that was killed is gone by then, or its driver hangs.
_TAIL_BYTES = 2**16  # Of the child's last words.


@dataclasses.dataclass
class _Child:
  """What is known of the child.

  Attributes:
    said: its last value for each word.
    passed: signals that it was sent.
    is_hung: it was ended, as it took longer than its limit.
    errors: the end of what it wrote to standard error.
    code: as subprocess gives it; None if it cannot be ended.
  """

  said: dict[str, object] = dataclasses.field(default_factory=dict)
  passed: set[int] = dataclasses.field(default_factory=set)
  is_hung: bool = False
  errors: bytes = b''
  code: int | None = None


def supervise(arguments: Sequence[str]) -> int:
  """Runs `jaxsearch ARGUMENTS` as a child, and returns the exit code of this process.

  Standard output, standard error and signals are passed through.
  """
  ours, theirs = multiprocessing.Pipe()
  with theirs:
    process = subprocess.Popen(
      [sys.executable, '-m', 'jaxsearch', *arguments],
      env={**os.environ, supervision.DESCRIPTOR: str(theirs.fileno())},
      pass_fds=[theirs.fileno()],
      stderr=subprocess.PIPE,
      process_group=0,  # With all that it starts, so that all can be ended.
    )
  child = _Child()

  def pass_on(number: int, frame: FrameType | None) -> None:
    child.passed.add(number)
    process.send_signal(number)

  signal.signal(signal.SIGTERM, pass_on)
  signal.signal(signal.SIGINT, pass_on)
  tee = threading.Thread(target=_tee, args=(process.stderr, child), daemon=True)
  tee.start()
  _listen(ours, child)
  if child.is_hung:
    process.kill()
  with contextlib.suppress(subprocess.TimeoutExpired):
    child.code = process.wait(_END_S if child.is_hung else None)
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  tee.join(_END_S)
  code, reason = _verdict(child)
  if reason:
    print(f'jaxsearch {arguments[0]}: {reason}', file=sys.stderr, flush=True)
  return code


def _listen(connection: Connection, child: _Child) -> None:
  """Until the child is gone, or takes longer than it may."""
  until = None
  with contextlib.suppress(EOFError, OSError):
    while connection.poll(None if until is None else max(until - time.monotonic(), 0.0)):
      word, value = connection.recv()
      child.said[word] = value
      if word == 'limit':
        until = None if value is None else time.monotonic() + value
    child.is_hung = True


def _tee(stream: IO[bytes], child: _Child) -> None:
  while chunk := stream.read1():
    sys.stderr.buffer.write(chunk)
    sys.stderr.flush()
    child.errors = (child.errors + chunk)[-_TAIL_BYTES:]


def _verdict(child: _Child) -> tuple[int, str]:
  """(exit code, what to tell the user; empty if the child has told it)."""
  if child.is_hung:
    return TRY_AGAIN, (
      f'an update took longer than schedule.update_limit_s={child.said["limit"]:g} seconds: a host '
      f'hangs, this one or another. This process was ended. {_next(child)}'
    )
  if 'ends' in child.said:
    return int(child.said['ends']), ''
  if signal.SIGINT in child.passed:
    return 128 + signal.SIGINT, ''
  if child.code >= 0:
    return child.code, ''
  number, errors = signal.Signals(-child.code), child.errors.decode(errors='replace')
  if number is signal.SIGABRT and 'distributed service' in errors:
    if 'joined' in child.said:
      return TRY_AGAIN, (
        f'{_lost(errors)} was lost: it died, hangs or ended before the others, and its own output '
        f'may tell why. This process cannot go on without it and was ended. {_next(child)}'
      )
    return 2, (
      f'the processes of this run did not all come together in {_processes.join_s()} seconds '
      '(JAXSEARCH_JOIN_SECONDS): one was not started or has another coordinator, or something else '
      f'answers at JAXSEARCH_COORDINATOR={_processes.coordinator()!r}. Mend it and start all again.'
    )
  if number is signal.SIGTERM and number in child.passed:
    return TRY_AGAIN, f'was told to stop (SIGTERM). {_next(child)}'
  return 128 + number, (
    f'was ended by {number.name}. SIGKILL mostly means that the memory of the host ran out. '
    f'{_next(child)}'
  )


def _lost(errors: str) -> str:
  """The host that JAX says is gone, by its last words; it names none if the first one is."""
  for pattern in (
    r'stopped sending heartbeats\):\s*(\d+)',
    r'Task (\d+) heartbeat timeout',
    r'first task at the barrier: (\d+)',
  ):
    if match := re.search(pattern, errors):
      return f'host {match.group(1)}'
  is_first = re.search(r'Failed to send RPC|CoordinationService/Heartbeat', errors)
  return 'host 0' if is_first else 'another host'


def _next(child: _Child) -> str:
  """What is there to go on from."""
  folder = child.said.get('run')
  if folder is None:
    return 'The same command starts it again.'
  checkpoints = pathlib.Path(folder, 'checkpoints')
  # What is not yet committed has another name.
  steps = [int(path.name) for path in checkpoints.glob('*') if path.name.isdigit()]
  if not steps:
    return f'Nothing was saved in {folder} yet; the same command starts it again.'
  return (
    f'The last committed checkpoint of {folder} is step {max(steps)}; the same command, on all '
    'hosts, goes on from it.'
  )
