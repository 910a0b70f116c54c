"""Lanes: what the host wants done to slots, and the arrays that tell a program so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsearch.rollout.memory import Memory

_NOTHING = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Lane:
  """What the host wants done to one slot.

  Attributes:
    slot: global slot number.
    start: cached tokens to keep; what lies beyond is forgotten (a smaller one rewinds the row).
    tokens: ids to write from `start` on: the pending token first; at most C.
    pending: the id that follows them, fed by the next decode step or extension.
    left: tokens that the row may sample once active; 0 leaves it parked.
    key: uint32 [2].
    temperature: 0 for greedy.
    source: slot whose first `start` cached tokens are copied (fork); None for an extension.
    forced: ids that the row samples first, whatever it would draw (`Engine.forces` of them fit).
    automaton: state of the stop table, of a row that goes on in the middle of its turn.

  Several lanes of one program may extend one slot, in order; the last one's state is the row's.
  """

  slot: int
  start: int
  tokens: np.ndarray
  pending: int
  left: int
  key: np.ndarray
  temperature: float
  source: int | None = None
  forced: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
  automaton: int = 0

  @property
  def stop(self) -> int:
    """Tokens in the cache afterwards."""
    return self.start + len(self.tokens)


class Packer:
  """Lays lanes out as arrays: `count` rows for each replica, in order of arrival."""

  def __init__(self, memory: Memory, *, slots: int, replicas: int, chunk: int, forces: int):
    """`slots` are of one replica; `chunk` and `forces` are the widths of tokens and forced ids."""
    self._memory, self._slots, self._replicas = memory, slots, replicas
    self._chunk, self._forces = chunk, forces

  def rows(self, slots: Sequence[int], count: int) -> list[int]:
    """The row of each slot's lane."""
    used = [0] * self._replicas
    rows = []
    for slot in slots:
      replica = slot // self._slots
      assert used[replica] < count, 'more lanes than the program has'
      rows.append(replica * count + used[replica])
      used[replica] += 1
    return rows

  def pack(
    self, lanes: Sequence[Lane], count: int, copies: Sequence[tuple[int, int]] = ()
  ) -> dict[str, np.ndarray]:
    """Arrays of `count` rows a replica.

    Args:
      lanes: in order.
      count: of rows a replica; those without a lane do nothing.
      copies: of each lane, what is copied in the cache: local (source, target) entries.
    """
    total = count * self._replicas
    packed = {
      # Behind the last slot, where states are dropped.
      'row': np.full(total, self._slots, np.int32),
      'where': self._memory.nowhere(total),
      'source': np.zeros(total, np.int32),
      'target': np.zeros(total, np.int32),
      'start': np.zeros(total, np.int32),
      'count': np.zeros(total, np.int32),
      'tokens': np.zeros((total, self._chunk), np.int32),
      'pending': np.zeros(total, np.int32),
      'left': np.zeros(total, np.int32),
      'automaton': np.zeros(total, np.int32),
      'key': np.zeros((total, 2), np.uint32),
      'temperature': np.zeros(total, np.float32),
      'forced': np.full((total, self._forces), -1, np.int32),
    }
    slots = [lane.slot for lane in lanes]
    rows = self.rows(slots, count)
    last = dict(zip(slots, rows, strict=True))
    packed['where'][rows] = self._memory.places(slots)
    for place, lane in zip(rows, lanes, strict=True):
      if last[lane.slot] == place:
        packed['row'][place] = lane.slot % self._slots
      packed['count'][place] = len(lane.tokens)
      packed['tokens'][place, : len(lane.tokens)] = lane.tokens
      for name in ('start', 'pending', 'left', 'automaton', 'key', 'temperature'):
        packed[name][place] = getattr(lane, name)
      if len(lane.forced):  # Sampled behind the pending id.
        packed['forced'][place, lane.stop + 1 :][: len(lane.forced)] = lane.forced
    for place, (source, target) in zip(rows, copies):
      packed['source'][place], packed['target'][place] = source, target
    return packed

  def copying(self, copies: Sequence[tuple[int, int, int]], count: int) -> dict[str, np.ndarray]:
    """The arrays of lanes that only copy: (slot whose replica it is, source, target)."""
    packed = self.pack([], count)
    rows = self.rows([slot for slot, _, _ in copies], count)
    for place, (_, source, target) in zip(rows, copies, strict=True):
      packed['source'][place], packed['target'][place] = source, target
    return packed
