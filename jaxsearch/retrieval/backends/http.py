"""Somebody's retrieval server, asked over HTTP in the dialect that `retrieval.dialect` names.

`retrieval.url` names several servers too: ',' stands between replicas, of which the one with the
fewest calls outstanding is asked, and ';' between shards, which are asked together and merged by
score. Scores of shards must be comparable: those of vectors from one encoder are, those of BM25
only as far as the shards count words alike.

The requests of a batch share calls where the dialect allows it, because a server encodes many
queries in little more time than one; if such a call is answered badly, each is asked alone. A call
is made once at each replica at most, the pool does the retrying; only a server that says when to
come back (Retry-After) is asked again, if the time suffices. A replica that fails time and again is
left alone for a while (`retrieval/replicas.py`). A call that takes longer than most is made at a
second replica too. If some shards fail, the outcome is `partial`; if what is left found nothing, or
all fail, the search has failed. Messages of failures begin with a word for their kind
(`retrieval/failures.py`).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import aiohttp

from jaxsearch import config, plugins
from jaxsearch.retrieval.dialects._contract import Dialect
from jaxsearch.retrieval.dialects._replies import Malformed, Reply
from jaxsearch.retrieval.failures import Failure, kind
from jaxsearch.retrieval.http import calls, replicas, routing
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError

T = TypeVar('T')
_HEALTH_S = 5.0
_NOBODY = ('connect', 'no_replica')  # Failures of which nobody spoke.


class Http:
  """Servers, and the thread that talks to them.

  Attributes:
    identity: dialect and index builds if all servers tell theirs, as those of `jaxsearch serve` do;
      else empty, because what an address answers may change at any time.
  """

  def __init__(self, settings: config.Retrieval):
    self._settings = settings
    self._dialect: Dialect = plugins.load('retrieval.dialects', settings.dialect)
    addresses = replicas.addresses(settings.url)
    self._shards = [replicas.Shard(urls, settings.hedge) for urls in addresses]
    self._loop = asyncio.new_event_loop()
    # It runs on between searches, or it would not notice that servers close connections.
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()
    self._client, self._builds = self._run(self._meet())
    self.identity = ''
    if all(self._builds):
      self.identity = f'http:{settings.dialect}:{";".join(self._builds)}'

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """All requests at once, within the share of the deadline that a try has."""
    until = time.monotonic() + _limit_s(self._settings)
    return self._run(self._search(requests, until))

  def close(self) -> None:
    """Ends the connections and the thread."""
    self._run(self._client.close())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _search(self, requests: Sequence[SearchRequest], until: float) -> list[SearchResult]:
    """Requests for as many documents share calls, of which every replica takes one."""
    groups = collections.defaultdict(list)
    for n, request in enumerate(requests):
      groups[request.top_k, n if self._dialect.MOST_QUERIES else 0].append(n)
    replicas = max(len(shard.replicas) for shard in self._shards)
    parts = []
    for own in groups.values():
      size = -(-len(own) // replicas)
      parts += [own[n : n + size] for n in range(0, len(own), size)]
    asked = (self._answer_together([requests[n] for n in part], until) for part in parts)
    found = dict(zip(itertools.chain(*parts), itertools.chain(*await asyncio.gather(*asked))))
    return [found[n] for n in range(len(requests))]

  async def _answer_together(
    self, requests: Sequence[SearchRequest], until: float
  ) -> list[SearchResult]:
    """One call for all of them; if a server answers that badly, one for each, all at once."""
    if len(requests) > 1:
      queries = tuple(itertools.chain.from_iterable(request.queries for request in requests))
      result = await self._answer(dataclasses.replace(requests[0], queries=queries), until)
      if result.outcome is not Outcome.ERROR or kind(result.message) in _NOBODY:
        return _split(result, requests)
    return await asyncio.gather(*(self._answer(request, until) for request in requests))

  async def _answer(self, request: SearchRequest, until: float) -> SearchResult:
    """What the shards say together."""
    asked = (self._ask(n, request, until) for n in range(len(self._shards)))
    said = await _all(asked)
    answers = [part for part in said if not isinstance(part, Failure)]
    failures = [part for part in said if isinstance(part, Failure)]
    documents = tuple(
      _merge([found[n] for found, _ in answers], request.top_k) for n in range(len(request.queries))
    )
    notes = [*map(str, failures), *(note for _, own in answers for note in own)]
    if any(documents):
      is_partial = bool(failures) or any(note.startswith('partial: ') for note in notes)
      outcome = Outcome.PARTIAL if is_partial else Outcome.OK
    elif failures:  # Where nobody looked there may be something.
      return SearchResult(failures[0].outcome, message=notes[0])
    else:
      outcome = Outcome.EMPTY
    return SearchResult(outcome, documents, message=notes[0] if notes else '')

  async def _ask(
    self, shard: int, request: SearchRequest, until: float
  ) -> tuple[list[tuple[Document, ...]], list[str]]:
    """(documents per query, what is to be noted) of one shard; raises Failure."""
    size = self._dialect.MOST_QUERIES or len(request.queries)
    parts = [request.queries[n : n + size] for n in range(0, len(request.queries), size)]
    calls = [self._caller(shard, part, request.top_k) for part in parts]
    said = await _all(routing.ask(self._shards[shard], call, until) for call in calls)
    for part in said:
      if isinstance(part, Failure):
        raise part
    documents = [found for reply, _ in said for found in reply.documents]
    return documents, [note for _, note in said if note]

  def _caller(
    self, shard: int, queries: Sequence[str], top_k: int
  ) -> routing.Call[tuple[Reply, str]]:
    """Asks these queries of a replica: the answer, and what is odd about it."""
    path, body = self._dialect.ask(queries, top_k)

    async def call(url: str, limit_s: float) -> tuple[Reply, str]:
      answer = await calls.post(self._client, self._address(url, path), body, limit_s)
      known = self._builds[shard]
      if known and answer.build != known:
        raise Failure(Outcome.ERROR, f'other_build: {url}: {answer.build!r} instead of {known!r}')
      try:
        reply = self._dialect.read(answer.json, len(queries), top_k)
      except Malformed as error:
        # The server is well: it is what it found that cannot be used, or the dialect is another.
        raise Failure(Outcome.ERROR, f'{error} ({url})', blames=False) from None
      if answer.is_partial:
        return reply, f'partial: {url}: a part of the index was not searched'
      return reply, f'missing_scores: {url}: ranks stand for them' if reply.lacks_scores else ''

    return call

  def _address(self, url: str, path: str) -> str:
    """Where `path` is; people give the address of a server with or without the dialect's own."""
    base = url.rstrip('/')
    for own in self._dialect.PATHS:
      base = base.removesuffix(own)
    return base + path

  async def _meet(self) -> tuple[aiohttp.ClientSession, list[str]]:
    """The connections, and the index build of each shard."""
    client = calls.session()
    try:
      return client, [await self._greet(client, shard) for shard in self._shards]
    except UserError:
      await client.close()
      raise

  async def _greet(self, client: aiohttp.ClientSession, shard: replicas.Shard) -> str:
    """The build that the replicas of a shard tell; '' if one of them tells none."""
    urls = [replica.url for replica in shard.replicas]
    said = await _all(
      calls.health(client, self._address(url, '/health'), _HEALTH_S) for url in urls
    )
    here = {url: found for url, found in zip(urls, said) if not isinstance(found, Failure)}
    if not here:
      raise UserError(
        f'No retrieval server answers at retrieval.url = {self._settings.url!r}: '
        f'{"; ".join(map(str, said))}. Start it, or mend the address.'
      )
    builds = {url: str(found.get('build') or '') for url, found in here.items()}
    if len(set(filter(None, builds.values()))) > 1:
      told = ', '.join(f'{url} has {build}' for url, build in builds.items())
      raise UserError(
        f'Replicas of retrieval.url serve different indexes: {told}. Serve the same index from all '
        "of them; between parts of a corpus write ';' instead of ','."
      )
    return builds[min(builds)] if all(builds.values()) else ''

  def _run(self, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def open(config: config.Retrieval) -> Http:
  """Says hello to the servers.

  Raises:
    UserError: for an unknown dialect or a broken address, if no server of a shard answers, or if
      replicas serve different indexes.
  """
  return Http(config)


def _limit_s(settings: config.Retrieval) -> float:
  """Seconds that one try of the pool may take here.

  A share for each try, and one for waiting, so that the pool need not end a worker whose servers
  are slow.
  """
  return settings.deadline_s * (1.0 / (settings.retries + 2) if settings.retries else 0.9)


async def _all(work: Iterable[Awaitable[T]]) -> list[T | Failure]:
  """Results and failures, once all have ended."""
  said = await asyncio.gather(*work, return_exceptions=True)
  for part in said:
    if isinstance(part, BaseException) and not isinstance(part, Failure):
      raise part
  return said


def _split(result: SearchResult, requests: Sequence[SearchRequest]) -> list[SearchResult]:
  """The result of each of several requests, out of that of all their queries."""
  if not result.documents:
    return [result] * len(requests)
  documents, results = iter(result.documents), []
  for request in requests:
    own = tuple(itertools.islice(documents, len(request.queries)))
    outcome = result.outcome if any(own) else Outcome.EMPTY
    if not any(own) and result.outcome is Outcome.PARTIAL:
      outcome, own = Outcome.ERROR, ()  # Where nobody looked there may be something.
    results.append(dataclasses.replace(result, outcome=outcome, documents=own))
  return results


def _merge(found: Sequence[tuple[Document, ...]], top_k: int) -> tuple[Document, ...]:
  """The best of several lists; one list stays in the order in which it came."""
  if len(found) == 1:
    return found[0]
  documents = itertools.chain.from_iterable(found)
  return tuple(sorted(documents, key=lambda document: -document.score)[:top_k])
