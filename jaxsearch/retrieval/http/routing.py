"""A call to one of several servers of the same documents: whom it goes to, and to whom else."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jaxsearch.retrieval.failures import Failure
from jaxsearch.retrieval.http.replicas import Replica, Shard
from jaxsearch.types import Outcome

T = TypeVar('T')
# (address, seconds that it may take) -> the answer; raises Failure.
Call = Callable[[str, float], Awaitable[T]]
_LOOK_S = 0.02  # Between two looks whether a replica is free again, where none is.
_SHORTEST_REST_S = 0.1  # For servers that say 'Retry-After: 0' again and again,
_LONGEST_REST_S = 30.0  # and for those that say an hour.


async def ask(shard: Shard, call: Call[T], until: float) -> T:
  """The answer of the first replica that has one before `until` (`time.monotonic()`).

  Each is asked once, but for those that said when to come back.

  Raises:
    Failure: the last one, if no replica is left or none is free in time.
  """
  tried: set[Replica] = set()
  failure: Failure | None = None
  while True:
    replica = await _free(shard, tried, until)
    if replica is None:
      urls = ', '.join(r.url for r in shard.replicas)
      text = f'no_replica: {urls}: left alone after failures, or because it asked for that'
      raise failure or Failure(Outcome.ERROR, text)
    try:
      return await _ask_twice(shard, replica, tried, call, until)
    except Failure as error:
      if error.is_final:
        raise
      failure = error


async def _free(shard: Shard, tried: set[Replica], until: float) -> Replica | None:
  """A replica to ask, once there is one; None if there will be none in time."""
  while not tried.issuperset(shard.replicas):
    now = time.monotonic()
    chosen = shard.choose(now, tried)
    if chosen is not None:
      return chosen
    when = shard.free_at(now, tried)
    if now >= until or until <= when < math.inf:
      return None
    await asyncio.sleep(min(when - now, _LOOK_S))
  return None


async def _ask_twice(
  shard: Shard, first: Replica, tried: set[Replica], call: Call[T], until: float
) -> T:
  """Asks `first`, and another replica besides if that takes longer than most calls do."""
  patience_s = shard.begin()
  if patience_s == math.inf:
    return await _ask(shard, first, tried, call, until)
  calls = {asyncio.create_task(_ask(shard, first, tried, call, until))}
  try:
    done, _ = await asyncio.wait(calls, timeout=patience_s)
    if not done:
      second = shard.choose(time.monotonic(), {first, *tried})
      if second is not None and shard.may_hedge():
        calls.add(asyncio.create_task(_ask(shard, second, tried, call, until)))
    while True:
      done, running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
      fine = [task for task in done if task.exception() is None]
      if fine or not running:
        return (fine or list(done))[0].result()
      calls = running
  finally:
    for task in calls:
      task.cancel()


async def _ask(
  shard: Shard, replica: Replica, tried: set[Replica], call: Call[T], until: float
) -> T:
  """One call, and what it says of the replica."""
  start, fine = time.monotonic(), None
  is_trial = replica.begin()
  try:
    answer = await call(replica.url, max(until - start, _LOOK_S))
    fine = True
    shard.answered(time.monotonic() - start)
    return answer
  except Failure as error:
    fine = False if error.blames else None
    if error.again_s is None:
      tried.add(replica)
    else:
      rest_s = min(max(error.again_s, _SHORTEST_REST_S), _LONGEST_REST_S)
      replica.rest(time.monotonic() + rest_s * random.uniform(1.0, 1.2))
    raise
  finally:
    replica.end(time.monotonic(), fine, is_trial)
