"""Feeding rows: cuts what is to be appended into chunks and fills the lanes of extend and fork.

Chunk boundaries are a function of the row's own segments, counted from each segment's start, so
the bits of a row's cache do not depend on which rows are fed beside it or when.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np

from jaxsearch.rollout.engine import Engine, Lane
from jaxsearch.rollout.row import Row


@dataclasses.dataclass
class _Feed:
  """What is left to write for one row, and the state it gets with the last chunk."""

  row: Row
  start: int
  ids: np.ndarray
  left: int
  key: np.ndarray
  temperature: float

  def lane(self, chunk: int) -> Lane:
    """The next chunk; the row stays parked until its last one."""
    ids, rest = self.ids[:chunk], self.ids[chunk:]
    last = len(rest) == 0
    lane = Lane(
      slot=self.row.slot,
      start=self.start,
      tokens=ids,
      pending=self.row.pending if last else int(rest[0]),
      left=self.left if last else 0,
      key=self.key,
      temperature=self.temperature,
    )
    self.start, self.ids = self.start + len(ids), rest
    return lane

  def fork(self, source: int) -> Lane:
    """All of it at once: copied from a slot that holds the same prompt."""
    return Lane(
      slot=self.row.slot,
      start=len(self.ids),
      tokens=self.ids[:0],
      pending=self.row.pending,
      left=self.left,
      key=self.key,
      temperature=self.temperature,
      source=source,
    )


class Extender:
  """Queues of rows to be fed; a prompt is written once and forked into its group's slots."""

  def __init__(self, engine: Engine):
    self._engine = engine
    self._extensions: collections.deque[_Feed] = collections.deque()
    # (what to feed, source slot, what writes the prompt there). A fork whose prompt is written goes
    # before every extension, in the order of beginning: its source may be about to be overwritten.
    self._forks: list[tuple[_Feed, int, _Feed]] = []
    # Slot -> the prompt that it holds or will hold, and what writes or wrote it.
    self._prompts: dict[int, tuple[bytes, _Feed]] = {}
    self._unfed: set[int] = set()  # Slots whose rows are in a queue.

  def is_ready(self, row: Row) -> bool:
    """Whether everything appended to the row has been written, so that decode samples for it."""
    return row.slot not in self._unfed

  def begin(self, row: Row, left: int, key: np.ndarray, temperature: float) -> None:
    """Queues a row's prompt: as a fork if a slot of the same replica holds it or soon will."""
    self._prompts.pop(row.slot, None)
    feed = _Feed(row, 0, row.prompt[:-1], left, key, temperature)
    prompt, replica = row.prompt.tobytes(), self._engine.replica(row.slot)
    holders = (
      (slot, writer)
      for slot, (held, writer) in self._prompts.items()
      if held == prompt and self._engine.replica(slot) == replica
    )
    source, writer = next(holders, (None, None))
    if source is None:
      self._extensions.append(feed)
      self._prompts[row.slot] = prompt, feed
    else:
      self._forks.append((feed, source, writer))
    self._unfed.add(row.slot)

  def extend(
    self, row: Row, start: int, ids: np.ndarray, left: int, key: np.ndarray, temperature: float
  ) -> object:
    """Queues ids that are written behind the row's first `start` cached tokens.

    Returns:
      What writes them, for `branch`.
    """
    feed = _Feed(row, start, ids, left, key, temperature)
    self._extensions.append(feed)
    self._unfed.add(row.slot)
    return feed

  def branch(
    self, row: Row, source: int, writer: Any, left: int, key: np.ndarray, temperature: float
  ) -> None:
    """Queues a copy of what `source` holds of the row's context, once `writer` has written it.

    A row that takes the slot of the row that it branched from is set back there instead.
    """
    self._prompts.pop(row.slot, None)
    ids = np.concatenate([s.ids for s in row.segments])[:-1]
    if source == row.slot:
      self.extend(row, len(ids), ids[:0], left, key, temperature)
      return
    self._forks.append((_Feed(row, 0, ids, left, key, temperature), source, writer))
    self._unfed.add(row.slot)

  def forget(self) -> None:
    """The weights change: no slot's prompt may be shared any more."""
    self._prompts.clear()

  def flush(self, running: int) -> None:
    """Feeds what is queued; a program with idle lanes waits while most rows are running."""
    self._fork_ready()
    while self._extensions:
      lanes = sum(-(-len(feed.ids) // self._engine.chunk) for feed in self._extensions)
      if lanes < self._engine.lanes and running > self._engine.slots // 2:
        return
      self._extend_once()
      self._fork_ready()

  def _extend_once(self) -> None:
    """One program: the first rows in the queue get as many lanes as they can use."""
    free = [self._engine.lanes] * self._engine.replicas
    lanes, later = [], []
    while self._extensions and any(free):
      feed = self._extensions.popleft()
      replica = self._engine.replica(feed.row.slot)
      done = False
      while free[replica] and not done:
        lanes.append(feed.lane(self._engine.chunk))
        free[replica] -= 1
        done = not len(feed.ids)
      if done:
        self._unfed.discard(feed.row.slot)
      else:
        later.append(feed)
    self._extensions.extendleft(reversed(later))
    self._engine.extend(lanes)

  def _fork_ready(self) -> None:
    """Forks whose source is written, in order; a program per R of them and replica."""
    # Not whether the source slot is fed: it may belong to another row by now.
    ready = [fork for fork in self._forks if not len(fork[2].ids)]
    self._forks = [fork for fork in self._forks if len(fork[2].ids)]
    self._unfed.difference_update(feed.row.slot for feed, _, _ in ready)
    by_replica = [
      [feed.fork(source) for feed, source, _ in ready if self._engine.replica(source) == replica]
      for replica in range(self._engine.replicas)
    ]
    rounds = max(-(-len(lanes) // self._engine.lanes) for lanes in by_replica)
    for start in range(0, rounds * self._engine.lanes, self._engine.lanes):
      stop = start + self._engine.lanes
      self._engine.fork([lane for lanes in by_replica for lane in lanes[start:stop]])
