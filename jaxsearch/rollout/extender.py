"""Feeding rows: cuts what is to be appended into chunks and fills the lanes of extend and fork.

Chunk boundaries are a function of the row's own segments, counted from each segment's start, so
the bits of a row's cache do not depend on which rows are fed beside it or when. A row that lost its
cache is fed again as it was written: by way of `rollout.rebuild`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsearch.rollout import rebuild
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.lanes import Lane
from jaxsearch.rollout.row import Row

# Chunks of decode during which a row waits for others to be fed beside it.
_PATIENCE = 3


@dataclasses.dataclass
class _Feed:
  """What is left to write for one row, and the state it gets with the last chunk."""

  row: Row
  start: int
  ids: np.ndarray
  left: int
  key: np.ndarray
  temperature: float
  pending: int
  forced: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
  automaton: int = 0

  @property
  def stop(self) -> int:
    """Tokens in the cache in the end."""
    return self.start + len(self.ids)

  def lanes(self, chunk: int) -> int:
    """How many are left."""
    return max(1, -(-len(self.ids) // chunk))

  def lane(self, chunk: int) -> Lane:
    """The next chunk; the row stays parked until its last one."""
    ids, rest = self.ids[:chunk], self.ids[chunk:]
    last = len(rest) == 0
    lane = Lane(
      slot=self.row.slot,
      start=self.start,
      tokens=ids,
      pending=self.pending if last else int(rest[0]),
      left=self.left if last else 0,
      key=self.key,
      temperature=self.temperature,
      forced=self.forced if last else self.forced[:0],
      automaton=self.automaton,
    )
    self.start, self.ids = self.start + len(ids), rest
    return lane

  def fork(self, source: int) -> Lane:
    """All of it at once: copied from a slot that holds the same prompt."""
    return Lane(
      slot=self.row.slot,
      start=len(self.ids),
      tokens=self.ids[:0],
      pending=self.pending,
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
    # Slot -> what is to be fed once the ids that are being forced there have been sampled.
    self._replays: dict[int, collections.deque[_Feed]] = {}
    self._forcing: collections.Counter[int] = collections.Counter()  # Slot -> ids to come.
    self._put_off = 0  # Times that what is queued was left to wait for company.

  def is_ready(self, row: Row) -> bool:
    """Whether everything appended to the row has been written, so that decode samples for it."""
    return row.slot not in self._unfed

  def begin(self, row: Row, left: int, key: np.ndarray, temperature: float) -> None:
    """Queues a row's prompt: as a fork if a slot of the same replica holds it or soon will."""
    self._prompts.pop(row.slot, None)
    feed = _Feed(row, 0, row.prompt[:-1], left, key, temperature, row.pending)
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
    feed = _Feed(row, start, ids, left, key, temperature, row.pending)
    self._queue(feed)
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
    self._forks.append((_Feed(row, 0, ids, left, key, temperature, row.pending), source, writer))
    self._unfed.add(row.slot)

  def rebuild(self, row: Row, left: int, key: np.ndarray, temperature: float) -> None:
    """Queues all of a row's context, whose cache was given up."""
    self.withdraw(row.slot)
    parts = rebuild.parts(row, left) if self._engine.forces else [rebuild.whole(row, left)]
    feeds = collections.deque(
      _Feed(row, p.start, p.fed, p.left, key, temperature, p.pending, p.forced, p.automaton)
      for p in parts
    )
    self._replays[row.slot] = feeds
    self._replay(row.slot)

  def sampled(self, row: Row, count: int, *, active: bool) -> tuple[int, bool]:
    """What a chunk means for a row that is being rebuilt.

    Returns:
      (how many of the `count` ids it sampled were forced, whether more is to be rebuilt).
    """
    forced = min(count, self._forcing[row.slot])
    self._forcing[row.slot] -= forced
    if active or not self._replays.get(row.slot):
      return forced, False
    self._replay(row.slot)
    return forced, True

  def withdraw(self, slot: int) -> None:
    """Forgets what a slot holds or was to be fed; who waits for it will write it himself."""
    self._extensions = collections.deque(f for f in self._extensions if f.row.slot != slot)
    orphans = [feed for feed, source, _ in self._forks if source == slot]
    self._forks = [f for f in self._forks if slot not in (f[0].row.slot, f[1])]
    self._extensions.extend(feed for feed in orphans if feed.row.slot != slot)
    self._unfed.discard(slot)
    self._prompts.pop(slot, None)
    self._replays.pop(slot, None)
    self._forcing.pop(slot, None)

  def forget(self) -> None:
    """The weights change: no slot's prompt may be shared any more."""
    self._prompts.clear()

  def flush(self, running: int, make_room: Callable[[Row, Callable[[], int]], bool]) -> None:
    """Feeds what is queued; a program with idle lanes waits a few times if most rows are running.

    Args:
      running: rows that are being decoded.
      make_room: tries to make room for a row, which needs so many pages, and may withdraw other
        rows for that; who gets none waits, and all that began later in its replica.
    """
    self._fork_ready()
    while self._extensions:
      lanes = sum(feed.lanes(self._engine.chunk) for feed in self._extensions)
      is_small = lanes < self._engine.fewest_lanes and running > self._engine.slots // 2
      if is_small and self._put_off < _PATIENCE:
        self._put_off += 1
        return
      self._put_off = 0
      if not self._extend_once(make_room):
        return
      self._fork_ready()

  def _replay(self, slot: int) -> None:
    feed = self._replays[slot].popleft()
    self._forcing[slot] = len(feed.forced)
    self._queue(feed)

  def _queue(self, feed: _Feed) -> None:
    self._extensions.append(feed)
    self._unfed.add(feed.row.slot)

  def _extend_once(self, make_room: Callable[[Row, Callable[[], int]], bool]) -> bool:
    """One program: the rows that began first get as many lanes as they can use.

    Returns:
      whether there was room for any.
    """
    free, memory = [self._engine.lanes] * self._engine.replicas, self._engine.memory
    promised = [0] * self._engine.replicas  # Pages that the lanes so far will take.
    lanes, later = [], []
    self._extensions = collections.deque(sorted(self._extensions, key=lambda f: f.row.order))
    while self._extensions and any(free):
      feed = self._extensions.popleft()
      replica = self._engine.replica(feed.row.slot)
      needed = functools.partial(memory.needed, feed.row.slot, feed.start, feed.stop, feed.left)
      if free[replica] and not memory.fits(feed.row.slot, needed() + promised[replica]):
        # Nobody has to go any more once there are lanes: their own row might be the one.
        is_first = free[replica] == self._engine.lanes
        if not (is_first and make_room(feed.row, needed)):
          free[replica] = 0
      promised[replica] += needed()
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
    if lanes:
      self._engine.extend(lanes)
    return bool(lanes)

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
