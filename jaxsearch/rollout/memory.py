"""What the host knows of the cache: how far each slot has come, and the pages that hold it.

A chunk of decode that has not been read yet may have written any number of its steps, so a slot's
pages reach as far as it can have come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.rollout.pages import Pages
from jaxsearch.types import UserError


class Memory:
  """Bookkeeping of one engine; without pages every slot has room of its own.

  Attributes:
    roomy: of a replica's slots, how many may hold full rows at the same time.
  """

  def __init__(self, rollout: config_lib.Rollout, replicas: int, time: int, *, paged: bool):
    """`time` is the number of tokens that a row has room for.

    Raises:
      UserError: there are not enough pages for one full row.
    """
    self._slots, self._steps = rollout.slots, rollout.decode_steps
    total = rollout.slots * replicas
    self._length = np.zeros(total, int)  # Tokens in the cache, as far as chunks have been read.
    self._left = np.zeros(total, int)  # Tokens that the device may still sample.
    self._flying = np.zeros(total, int)  # Steps in chunks that have not been read.
    self._row_pages = -(-time // rollout.block_tokens)
    self._pages = None
    self._bounded = paged and rollout.pages > 0  # Otherwise there are pages for everybody.
    self.roomy = rollout.slots
    if paged:
      count = page_count(rollout, time)
      if count <= self._row_pages:
        raise UserError(
          f'rollout.pages is {count}, but a row of {time} tokens (context, a chunk behind it, and '
          f"what a reward may force) takes {self._row_pages} pages, and one is nobody's. Allowed: "
          f'0, or at least {1 + self._row_pages}.'
        )
      self._pages = Pages(
        rollout.slots,
        replicas,
        pages=count,
        tokens=rollout.block_tokens,
        row_pages=self._row_pages,
      )
      self.roomy = min(rollout.slots, (count - 1) // self._row_pages)

  @property
  def length(self) -> np.ndarray:
    """int [slots]: tokens in the cache, as far as chunks have been read."""
    return self._length.copy()

  @property
  def active(self) -> np.ndarray:
    """int [n]: slots that the device may sample for."""
    return np.flatnonzero(self._left)

  def places(self, slots: Sequence[int]) -> np.ndarray:
    """int32 [n, pages of a row], or [n] local slots: where each slot's tokens are."""
    slots = np.asarray(slots, np.int32)
    return slots % self._slots if self._pages is None else self._pages.table[slots]

  def nowhere(self, count: int) -> np.ndarray:
    """The same of `count` rows that do nothing."""
    if self._pages is None:
      return np.full(count, self._slots, np.int32)
    return np.zeros((count, self._row_pages), np.int32)

  def lacks(self, replica: int) -> int:
    """Pages that another chunk of decode needs beyond those that are free; 0 or less: none."""
    if not self._bounded:
      return 0
    mine = [slot for slot in self.active if slot // self._slots == replica]
    needed = sum(self._pages.missing(slot, self._length[slot], self._reach(slot)) for slot in mine)
    return needed - self._pages.free(replica)

  def needed(self, slot: int, start: int, stop: int, left: int) -> int:
    """Pages for writing from `start` to `stop`, and for the first chunk of `left` tokens behind."""
    if not self._bounded:
      return 0
    return self._pages.missing(slot, start, stop + min(self._steps, left))

  def fits(self, slot: int, needed: int) -> bool:
    """Whether so many pages can be given to the slot, beside all that runs."""
    return not self._bounded or needed + self.lacks(slot // self._slots) <= 0

  def holds(self, slot: int) -> bool:
    """Whether the slot has pages, perhaps together with others."""
    return self._pages is not None and self._pages.holds(slot)

  def write(self, slot: int, start: int, stop: int, left: int) -> list[tuple[int, int]]:
    """An extension from `start` to `stop`; returns the (source, target) pages to copy before."""
    self._length[slot], self._left[slot] = stop, left
    return [] if self._pages is None else self._pages.write(slot, start, stop)

  def share(self, source: int, slot: int, length: int, left: int) -> tuple[int, int]:
    """A fork; returns the (source, target) entries to copy: local slots, or waste for pages."""
    self._length[slot], self._left[slot] = length, left
    if self._pages is None:
      return source % self._slots, slot % self._slots
    self._pages.share(source, slot, length)
    return 0, 0

  def decode(self, slots: np.ndarray) -> list[tuple[int, int, int]]:
    """Another chunk of `slots`; returns the (slot, source, target) pages to copy before."""
    copies = []
    for slot in slots if self._pages is not None else ():
      made = self._pages.write(slot, self._length[slot], self._reach(slot))
      copies += [(slot, *copy) for copy in made]
    self._flying[slots] += self._steps
    return copies

  def read(self, slots: np.ndarray, counts: np.ndarray, active: np.ndarray) -> None:
    """What a chunk of `slots` has sampled, and which of them go on."""
    self._flying[slots] -= self._steps
    # Without a token a row had stopped before, and may have been extended since; without any left
    # it was released meanwhile.
    sampled = (counts > 0) & (self._left[slots] > 0)
    slots, counts, active = slots[sampled], counts[sampled], active[sampled]
    self._length[slots] += counts
    self._left[slots] = np.where(active, self._left[slots] - counts, 0)

  def release(self, slot: int) -> None:
    """The slot holds nothing any more."""
    self._length[slot] = self._left[slot] = 0
    if self._pages is not None:
      self._pages.release(slot)

  def clear(self) -> None:
    """No slot holds anything any more, none is active, and no chunk will be read."""
    self._flying[:] = 0
    for slot in range(len(self._length)):
      self.release(slot)

  def _reach(self, slot: int) -> int:
    """Tokens that the slot can hold after one more chunk."""
    ahead = self._flying[slot] + self._steps
    return int(self._length[slot] + min(ahead, self._left[slot]))


def page_count(rollout: config_lib.Rollout, time: int) -> int:
  """Pages of a replica: as configured, or enough for full rows in all slots; one is waste."""
  return rollout.pages or 1 + rollout.slots * -(-time // rollout.block_tokens)
