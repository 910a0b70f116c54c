"""Ends that are no failures: a notice from outside, and the code with which a process then ends.

TPU VMs, Kubernetes and SLURM announce the end of a machine by SIGTERM. Whoever trains looks at
`Notice.is_given` between two steps, together with the other hosts, who have just met at the update.
JAX's own service (`multihost_utils.reached_preemption_sync_point`) is not used: a single process
has none, and it takes the signal from every verb, also from those that save nothing.
"""

from __future__ import annotations

import signal
from types import FrameType

# Exit code of what may be started again by the same command, and then goes on: EX_TEMPFAIL.
TRY_AGAIN = 75


class Interrupted(Exception):
  """A run stopped before its end, at a place from which it goes on; the message names it."""


class Notice:
  """Whether this process was told to stop (SIGTERM) since `with Notice() as notice:` began.

  Further signals change nothing: managers of clusters send them to parent and child alike.

  Attributes:
    is_given: it was.
  """

  def __init__(self) -> None:
    self.is_given = False

  def __enter__(self) -> Notice:
    self._before = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *error: object) -> None:
    signal.signal(signal.SIGTERM, self._before)

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.is_given = True
