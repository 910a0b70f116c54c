"""Which pages of a paged cache hold each slot's tokens: the host's half of `rollout.caches.paged`.

A page holds a fixed number of tokens of one row, or of several that share their beginning: a fork
copies nothing. Whoever is the first to write into a shared page gets a copy of its own. Page 0 of
every replica is nobody's: rows that do nothing write there.
"""

from __future__ import annotations

import numpy as np


class Pages:
  """Page numbers by slot, and how many slots use each page; both are local to a replica."""

  def __init__(self, slots: int, replicas: int, *, pages: int, tokens: int, row_pages: int):
    """`pages` a replica, of `tokens` tokens each; a row has at most `row_pages`."""
    self.table = np.zeros((slots * replicas, row_pages), np.int32)
    self._tokens, self._slots = tokens, slots
    self._held = np.zeros(slots * replicas, int)  # Pages of a slot.
    self._uses = np.zeros((replicas, pages), int)
    self._free = [list(range(pages - 1, 0, -1)) for _ in range(replicas)]

  def free(self, replica: int) -> int:
    """Pages that nobody uses."""
    return len(self._free[replica])

  def holds(self, slot: int) -> bool:
    """Whether the slot has pages, perhaps together with others."""
    return bool(self._held[slot])

  def missing(self, slot: int, start: int, stop: int) -> int:
    """Pages that `write` would take, less those that it would give back."""
    first, last = start // self._tokens, self._count(stop)
    uses = self._uses[slot // self._slots][self.table[slot, : self._held[slot]]]
    fresh = max(0, last - len(uses))
    copied = int((uses[first:last] > 1).sum()) if stop > start else 0
    return fresh + copied - int((uses[last:] == 1).sum())

  def write(self, slot: int, start: int, stop: int) -> list[tuple[int, int]]:
    """Makes tokens from `start` to `stop` the slot's own to write; what lies behind is given back.

    Returns:
      (source, target) pages that have to be copied before anything is written.
    """
    replica, last = slot // self._slots, self._count(stop)
    self._drop(slot, last)
    copies = []
    first = start // self._tokens if stop > start else last
    for place in range(first, min(last, self._held[slot])):
      page = self.table[slot, place]
      if self._uses[replica, page] > 1:
        self._uses[replica, page] -= 1
        self.table[slot, place] = own = self._take(replica)
        if place * self._tokens < start:  # Its beginning is kept.
          copies.append((int(page), own))
    for place in range(self._held[slot], last):
      self.table[slot, place] = self._take(replica)
    self._held[slot] = last
    return copies

  def share(self, source: int, slot: int, tokens: int) -> None:
    """Lets the slot hold the first `tokens` tokens of the source's."""
    replica, count = slot // self._slots, self._count(tokens)
    self._uses[replica, self.table[source, :count]] += 1
    self._drop(slot, 0)
    self.table[slot, :count] = self.table[source, :count]
    self._held[slot] = count

  def release(self, slot: int) -> None:
    """The slot holds nothing any more."""
    self._drop(slot, 0)

  def _count(self, tokens: int) -> int:
    return -(-tokens // self._tokens)

  def _take(self, replica: int) -> int:
    page = self._free[replica].pop()
    self._uses[replica, page] = 1
    return page

  def _drop(self, slot: int, kept: int) -> None:
    replica = slot // self._slots
    for page in self.table[slot, kept : self._held[slot]]:
      self._uses[replica, page] -= 1
      if not self._uses[replica, page]:
        self._free[replica].append(int(page))
    self.table[slot, kept:] = 0
    self._held[slot] = min(kept, self._held[slot])
