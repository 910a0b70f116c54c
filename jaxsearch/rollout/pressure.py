"""Who gives up its pages when they run out, so that more rows than memory can be in flight.

First go slots whose rows have ended, then the row that has waited longest for its search, last the
row that began last. A row that is to be written takes pages only from rows that began later than
itself, or wait: so the one that began first always comes to its end, then the next. Whoever gave up
its pages is rebuilt when it goes on. Unless `rollout.pages` bounds them nobody ever has to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.row import Row, State


class Pressure:
  """Finds room among a sampler's rows."""

  def __init__(self, engine: Engine, extender: Extender, rows: Mapping[int, Row]):
    """`rows` are the sampler's own, by slot."""
    self._engine, self._extender, self._rows = engine, extender, rows
    self.evicted = 0

  def decodable(self, ready: Sequence[Row]) -> list[Row]:
    """Those rows that another chunk of decode has pages for; the others have lost theirs."""
    for replica in range(self._engine.replicas):
      while self._engine.memory.lacks(replica) > 0:
        assert self._give_up(replica, after=-1), 'a full row must fit'
    return [row for row in ready if row.cached]

  def make_room(self, row: Row, needed: Callable[[], int], *, decoding: Collection[int]) -> bool:
    """Lets others give up their pages until a row can be written; whether it can be then.

    Args:
      row: it keeps what it has.
      needed: how many pages it takes, as things stand.
      decoding: replicas that decode; there no row that runs has to go.
    """
    replica = self._engine.replica(row.slot)
    after = None if replica in decoding else row.order
    while not self._engine.memory.fits(row.slot, needed()):
      if not self._give_up(replica, after=after, but=row):
        return False
    return True

  def _give_up(self, replica: int, *, after: int | None, but: Row | None = None) -> bool:
    """Frees what one slot holds; returns whether there was one.

    Rows that run have to go if they began after the row of number `after`, or not at all.
    """
    slots = [s for s in range(self._engine.slots) if self._engine.replica(s) == replica]
    holding = [s for s in slots if self._engine.memory.holds(s)]
    for slot in holding:
      if slot not in self._rows:
        self._extender.withdraw(slot)
        self._engine.memory.release(slot)
        return True
    rows = [r for r in self._rows.values() if r.slot in holding and r is not but]
    waiting = [row for row in rows if row.state is State.SEARCHING]
    later = [
      row for row in rows if row.state is State.RUNNING and after is not None and row.order > after
    ]
    if waiting:
      self._evict(min(waiting, key=lambda row: row.asked_at))
    elif later:
      self._evict(max(later, key=lambda row: row.order))
    return bool(waiting or later)

  def _evict(self, row: Row) -> None:
    self._extender.withdraw(row.slot)
    self._engine.release([row.slot])
    row.cached = False
    self.evicted += 1
