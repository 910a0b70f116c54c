"""Who gives up its pages when they run out, so that more rows than memory can be in flight.

First go slots whose rows have ended, then the row that has waited longest for its search, last the
row that began last: so the one that began first always comes to its end. Whoever gave up its pages
is rebuilt when it goes on. Without pages nobody ever has to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.row import Row, State


class Pressure:
  """Finds room among a sampler's rows."""

  def __init__(self, engine: Engine, extender: Extender, rows: Mapping[int, Row]):
    """`rows` are the sampler's own, by slot, in the order of beginning."""
    self._engine, self._extender, self._rows = engine, extender, rows
    self.evicted = 0

  def decodable(self, ready: Sequence[Row]) -> list[Row]:
    """Those rows that another chunk of decode has pages for; the others have lost theirs."""
    for replica in range(self._engine.replicas):
      while self._engine.memory.lacks(replica) > 0:
        assert self._give_up(replica, running=True), 'a full row must fit'
    return [row for row in ready if row.cached]

  def make_room(self, row: Row, start: int, stop: int, *, running: bool) -> bool:
    """Lets others give up their pages until the row can be written; whether it can be then.

    Args:
      row: it keeps what it has.
      start: tokens that it keeps.
      stop: tokens that it will hold.
      running: rows that could be decoded may have to go, too.
    """
    replica = self._engine.replica(row.slot)
    while not self._engine.memory.fits(row.slot, start, stop):
      if not self._give_up(replica, running=running, but=row):
        return False
    return True

  def _give_up(self, replica: int, *, running: bool, but: Row | None = None) -> bool:
    """Frees what one slot holds; returns whether there was one."""
    slots = [s for s in range(self._engine.slots) if self._engine.replica(s) == replica]
    holding = [s for s in slots if self._engine.memory.holds(s)]
    for slot in holding:
      if slot not in self._rows:
        self._extender.withdraw(slot)
        self._engine.memory.release(slot)
        return True
    rows = [r for r in self._rows.values() if r.slot in holding and r is not but]
    waiting = [row for row in rows if row.state is State.SEARCHING]
    others = [r for r in rows if r.state is State.RUNNING and not self._extender.is_source(r.slot)]
    if waiting:
      self._evict(min(waiting, key=lambda row: row.asked_at))
    elif running and others:
      self._evict(others[-1])
    return bool(waiting or (running and others))

  def _evict(self, row: Row) -> None:
    self._extender.withdraw(row.slot)
    self._engine.release([row.slot])
    row.cached = False
    self.evicted += 1
