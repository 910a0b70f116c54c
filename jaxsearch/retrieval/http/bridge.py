"""The pool, for callers in an event loop: one thread owns it, the loop never waits for it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from jaxsearch.retrieval import pool as pools
from jaxsearch.types import Outcome, SearchRequest, SearchResult

_LOOK_S = 0.001  # Between two looks at new requests while answers are awaited.
_WINDOW_S = 10.0  # Over which the pool's numbers are taken.


class Bridge:
  """Hands queries to a pool and answers back to the event loop in which it was made.

  Attributes:
    stats: the pool's numbers over the last ten seconds, by metric name.
    failure: why the pool answers no more; None as long as it does.
  """

  def __init__(self, pool: pools.Pool):
    """Owns `pool` from now on; the caller closes it after `close`."""
    self.stats: Mapping[str, float] = {}
    self.failure: Exception | None = None
    self._told: Callable[[], None] = lambda: None
    self._pool = pool
    self._loop = asyncio.get_running_loop()
    self._numbers = itertools.count()
    self._futures: dict[str, asyncio.Future[SearchResult]] = {}  # Of the event loop.
    self._requests: queue.SimpleQueue[SearchRequest | None] = queue.SimpleQueue()
    self._thread = threading.Thread(target=self._run, name='bridge', daemon=True)
    self._thread.start()

  @property
  def pending(self) -> int:
    """Queries that are not answered yet."""
    return len(self._futures)

  def on_failure(self, told: Callable[[], None]) -> None:
    """Has `told` called, in the event loop, if the pool fails."""
    self._told = told

  async def search(self, queries: Sequence[str], top_k: int) -> list[SearchResult]:
    """One result per query, each a search of its own, so that workers share them."""
    return await asyncio.gather(*(self._begin(query, top_k) for query in queries))

  def close(self) -> None:
    """Ends the thread; what is pending is answered with outcome `error`."""
    self._requests.put(None)
    self._thread.join()
    self._answer([(name, _CLOSED) for name in list(self._futures)])

  def _begin(self, query: str, top_k: int) -> asyncio.Future[SearchResult]:
    name = str(next(self._numbers))
    if self.failure:
      done: asyncio.Future[SearchResult] = self._loop.create_future()
      done.set_result(_failed(self.failure))
      return done
    # The same query has the same key: backends that draw answer it alike, whoever asks.
    key = int.from_bytes(hashlib.blake2b(query.encode(), digest_size=8).digest(), 'big')
    self._futures[name] = self._loop.create_future()
    self._requests.put(SearchRequest(name, 0, 0, (query,), top_k, '', 0.0, key))
    return self._futures[name]

  def _answer(self, answers: Sequence[tuple[str, SearchResult]]) -> None:
    """In the event loop."""
    for name, result in answers:
      future = self._futures.pop(name, None)
      if future is not None and not future.done():  # Its client may be gone.
        future.set_result(result)

  def _fail(self, error: Exception) -> None:
    """In the event loop: nobody is left waiting for a pool that answers no more."""
    self.failure = error
    self._answer([(name, _failed(error)) for name in list(self._futures)])
    self._told()

  def _run(self) -> None:
    try:
      self._exchange()
    except Exception as error:
      self._loop.call_soon_threadsafe(self._fail, error)

  def _exchange(self) -> None:
    window_ends = time.monotonic() + _WINDOW_S
    while self._submit(window_ends):
      answers = [(request.trajectory, result) for request, result in self._pool.poll(_LOOK_S)]
      if answers:
        self._loop.call_soon_threadsafe(self._answer, answers)
      if time.monotonic() >= window_ends:
        self.stats, window_ends = self._pool.stats(), time.monotonic() + _WINDOW_S

  def _submit(self, window_ends: float) -> bool:
    """Submits what has come, and waits for something if nothing is pending; False: the end."""
    try:
      if not self._pool.pending:
        request = self._requests.get(timeout=max(0.0, window_ends - time.monotonic()))
      else:
        request = self._requests.get_nowait()
      while request is not None:
        self._pool.submit(request)
        request = self._requests.get_nowait()
      return False
    except queue.Empty:
      return True


_CLOSED = SearchResult(Outcome.ERROR, message='closed: the server ends')


def _failed(error: Exception) -> SearchResult:
  cause = error.__cause__ or error
  return SearchResult(Outcome.ERROR, message=f'pool: {type(cause).__name__}: {cause}')
