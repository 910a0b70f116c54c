"""The other processes of a run, one per host: joining them, and ending beside them.

Launchers say who takes part: JAXSEARCH_COORDINATOR is the address and port of process 0, or `auto`
where the machines know each other; JAXSEARCH_NUM_PROCESSES counts them, JAXSEARCH_PROCESS_ID is the
number of this one. JAXSEARCH_JOIN_SECONDS is how long one waits for the others at the start.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable

from jaxsearch import supervision
from jaxsearch.cli import _versions
from jaxsearch.types import UserError

# A process that says nothing for so long is lost, and JAX ends the others.
_HEARTBEAT_S = 25
# A process that ends alone waits so long for the others, and then JAX ends them. The two together
# stay below a minute, within which nobody waits for a host any more.
_SHUTDOWN_S = 10


def coordinator() -> str:
  """Address of process 0, 'auto', or empty if there is one process only."""
  return os.environ.get('JAXSEARCH_COORDINATOR', '')


def count() -> int:
  """Processes that a launcher started together."""
  return _number('JAXSEARCH_NUM_PROCESSES', 1, least=1)


def join_s() -> int:
  """Seconds for which a process waits for the others at the start."""
  return _number('JAXSEARCH_JOIN_SECONDS', 45, least=1)


def join() -> None:
  """Starts JAX's part in this run: alone, or together with the other processes.

  Raises:
    UserError: if the variables do not fit together, or nobody answers in time.
  """
  address, number = coordinator(), 0
  if address:
    number = _initialize(address)
  if number == 0:
    _versions.warn_if_untested()


def beside_others(run: Callable[[], int]) -> int:
  """Runs a verb as one of several processes; returns its exit code.

  An exception may be its own, or come of a lost host: collectives fail when a connection breaks.
  JAX knows it within the time of a heartbeat, and then ends this process.
  """
  supervision.end_with_parent()
  try:
    code = run()
    if code == 0:
      _await_all()
  except Exception:
    traceback.print_exc()
    if _is_joined():
      told = f'Waiting {_HEARTBEAT_S + 5} s to learn whether another host was lost.'
      print(told, file=sys.stderr)
      time.sleep(_HEARTBEAT_S + 5)
    code = 1
  supervision.tell('ends', code)
  return code


def _initialize(address: str) -> int:
  """The number of this process, as soon as all are there."""
  places = {}
  if address != 'auto':
    hosts = count()
    number = _number('JAXSEARCH_PROCESS_ID', None, least=0, below=hosts)
    places = {'coordinator_address': address, 'num_processes': hosts, 'process_id': number}
    # Of a SLURM job JAX would give each process one GPU; here a process has all those of its node.
    places['cluster_detection_method'] = 'deactivate'
    if number:
      _reach(address, number)
  import jax

  # Its listener would take SIGTERM from the verbs; see `interruption`.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      **places,
      initialization_timeout=join_s(),
      heartbeat_timeout_seconds=_HEARTBEAT_S,
      shutdown_timeout_seconds=_SHUTDOWN_S,
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'the processes of this run cannot be joined at JAXSEARCH_COORDINATOR={address!r}: {error}. '
      "Give ADDRESS:PORT of process 0, with a port that is free there; 'auto' is for clusters that "
      'JAX knows.'
    ) from error
  supervision.tell('joined')
  if jax.process_count() != count():  # The configuration was checked for as many.
    raise UserError(
      f'JAXSEARCH_NUM_PROCESSES is {count()}, but JAX found {jax.process_count()} processes; set it'
      ' to that.'
    )
  return jax.process_index()


def _reach(address: str, number: int) -> None:
  """Waits until somebody listens at the address: JAX would abort without saying what is wrong."""
  host, _, port = address.rpartition(':')
  until = time.monotonic() + join_s()
  reason = 'it names no port'
  while port.isdecimal():
    try:
      with socket.create_connection((host.strip('[]'), int(port)), timeout=5):
        return
    except (OSError, OverflowError) as error:
      reason = error
    if time.monotonic() > until:
      break
    time.sleep(0.5)
  raise UserError(
    f'process {number} cannot reach JAXSEARCH_COORDINATOR={address!r}: {reason}. It must be '
    'ADDRESS:PORT of process 0, which must have been started, with a free port that no firewall '
    f'closes. JAXSEARCH_JOIN_SECONDS={join_s()} is how long it is waited for.'
  )


def _await_all() -> None:
  """Hosts that have nothing left to do wait for those that still write, however long it takes."""
  if _is_joined():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('jaxsearch: the verb is done')


def _is_joined() -> bool:
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()


def _number(name: str, default: int | None, *, least: int, below: int | None = None) -> int:
  text = os.environ.get(name, '' if default is None else str(default))
  if not text.isdecimal() or int(text) < least or (below is not None and int(text) >= below):
    allowed = f'at least {least}' if below is None else f'from {least} to {below - 1}'
    raise UserError(f'{name} is {text!r}; allowed: a whole number, {allowed}.')
  return int(text)
