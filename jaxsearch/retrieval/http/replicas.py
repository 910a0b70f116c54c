"""The servers that hold one index between them: whom to ask, whom to spare, when to ask twice.

Nothing here waits or sends, and every function is told the time: `time.monotonic()`, in seconds.
"""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Collection, Sequence

from jaxsearch.retrieval.pooling.statistics import quantile
from jaxsearch.types import UserError

_FAILURES = 5  # In a row, or
_BAD_SHARE = 0.5  # of the last
_WINDOW = 20  # calls: then a replica is left alone
_COOLDOWN_S = 1.0  # for so long, twice as long after every trial that fails,
_LONGEST_COOLDOWN_S = 30.0  # but no longer.
_LATENCIES = 256  # Remembered for the percentile; it counts from
_ENOUGH_LATENCIES = 20  # of them.


def addresses(url: str) -> list[list[str]]:
  """`retrieval.url` as shards of replicas: ';' stands between shards, ',' between replicas.

  Raises:
    UserError: if a part is no address.
  """
  shards = [[part.strip() for part in shard.split(',')] for shard in url.split(';')]
  for part in (part for shard in shards for part in shard):
    if not part.startswith(('http://', 'https://')):
      raise UserError(
        f'retrieval.url is {url!r}, of which {part!r} is no address. Give addresses of retrieval '
        "servers such as http://localhost:8000, with ',' between servers of the same documents and "
        "';' between those of different parts of the corpus."
      )
  return shards


class Replica:
  """One server and what is known of its health.

  Attributes:
    url: its address.
    outstanding: calls that it has not answered yet.
  """

  def __init__(self, url: str):
    self.url = url
    self.outstanding = 0
    self._last = collections.deque(maxlen=_WINDOW)  # Whether each call went well.
    self._failures = 0  # In a row.
    self._opened = 0  # Times in a row that it was left alone.
    self._open_until = 0.0
    self._rests_until = 0.0
    self._on_trial = False

  def free_at(self, now: float) -> float:
    """When it may be asked: `now`, later, or never as long as the call on trial lasts."""
    if self._on_trial:
      return math.inf
    return max(now, self._open_until, self._rests_until)

  def begin(self) -> bool:
    """A call is sent; True if it is the trial after a pause, which `end` is to be told."""
    self.outstanding += 1
    self._on_trial = self._opened > 0
    return self._on_trial

  def end(self, now: float, fine: bool | None, is_trial: bool) -> None:
    """A call is over: well, badly, or (None) without a word about the health of the server."""
    self.outstanding -= 1
    if is_trial:
      self._on_trial = False
    if fine is None or (self._opened and not is_trial):
      return  # What was sent before the pause says nothing new.
    if fine:
      self._failures = 0
      if is_trial:
        self._opened = 0
        self._last.clear()
      self._last.append(True)
      return
    self._last.append(False)
    self._failures += 1
    is_bad = self._last.count(False) >= _BAD_SHARE * _WINDOW
    if is_trial or is_bad or self._failures >= _FAILURES:
      pause_s = min(_COOLDOWN_S * 2**self._opened, _LONGEST_COOLDOWN_S)
      self._opened += 1
      self._open_until = now + pause_s * random.uniform(0.5, 1.5)

  def rest(self, until: float) -> None:
    """It asked not to be asked before then."""
    self._rests_until = max(self._rests_until, until)


class Shard:
  """Replicas of the same documents.

  Attributes:
    replicas: the one that was chosen last stands last.
  """

  def __init__(self, urls: Sequence[str], hedge: float = 0.05):
    """`hedge`: share of calls, the slowest, that may be made twice."""
    self.replicas = [Replica(url) for url in urls]
    self._hedge = hedge
    self._latencies_s = collections.deque(maxlen=_LATENCIES)
    self._calls = 0
    self._hedged = 0

  def choose(self, now: float, without: Collection[Replica] = ()) -> Replica | None:
    """The free replica with the fewest calls outstanding, if there is any."""
    free = [r for r in self.replicas if r not in without and r.free_at(now) <= now]
    chosen = min(free, key=lambda r: r.outstanding, default=None)
    if chosen is not None:
      self.replicas.remove(chosen)
      self.replicas.append(chosen)
    return chosen

  def free_at(self, now: float, without: Collection[Replica] = ()) -> float:
    """When the first replica will be free; infinity if that depends on calls that are out."""
    return min((r.free_at(now) for r in self.replicas if r not in without), default=math.inf)

  def answered(self, latency_s: float) -> None:
    """A call was answered after so many seconds."""
    self._latencies_s.append(latency_s)

  def begin(self) -> float:
    """A call begins; returns how long it may take before another replica is asked too."""
    self._calls += 1
    if len(self.replicas) < 2 or not self._hedge or len(self._latencies_s) < _ENOUGH_LATENCIES:
      return math.inf
    return quantile(self._latencies_s, 1 - self._hedge)

  def may_hedge(self) -> bool:
    """Whether one more call may be sent twice; counts it."""
    if self._hedged + 1 > self._hedge * self._calls:
      return False
    self._hedged += 1
    return True
