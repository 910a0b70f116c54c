"""`jaxsearch serve`: the pool over HTTP, in every dialect of `retrieval/dialects/` at once.

One event loop reads and writes, the pool's processes search; each query of a request is a search of
its own. How an answer is told:

  every query ok, empty or partial   200; with the header X-Search-Outcome: partial if one is
  some queries blank or refused      200; they found nothing
  all of them, or a broken request   400
  more queries in flight than may    429, with Retry-After
  a query failed, timed out or       502, 504, 503 (with Retry-After): no dialect can say that one
    met no free worker               query of several failed, and an empty list would be a lie

A refusal is JSON: `outcome`, `message` and the `outcomes` of all queries. GET /health says what is
served and how many workers are free, GET /metrics is for Prometheus. The port opens when the pool
has opened: whoever can connect can search.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from jaxsearch import config, files, plugins
from jaxsearch.retrieval import index_folder
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.dialects._requests import BadRequest
from jaxsearch.retrieval.http import answering, bridge, calls, gauges
from jaxsearch.types import Outcome, UserError

_MOST_BYTES = 8 * 2**20  # Of a request; the queries of a whole training batch have far fewer.
_CONNECTIONS = 1024  # That may wait to be accepted.
_AGAIN_S = '1'


def serve(settings: config.Retrieval, *, host: str, port: int, most_queries: int) -> None:
  """Serves until SIGTERM or SIGINT, then answers what is in flight and returns.

  Args:
    settings: of the pool.
    host, port: to listen at; port 0 takes a free one. The address is printed.
    most_queries: in flight at a time; more are refused.

  Raises:
    UserError: if the backend does not open, nothing can listen there or the pool fails.
  """
  with pools.Pool(settings) as pool:
    about = _about(settings, pool.identity)
    asyncio.run(_serve(settings, pool, about, (host, port, most_queries)))


class Service:
  """What answers requests, in the event loop in which it is made.

  Attributes:
    app: to be run by aiohttp.
    bridge: to the pool.
  """

  def __init__(
    self,
    settings: config.Retrieval,
    pool: pools.Pool,
    about: Mapping[str, Any],
    most_queries: int,
  ):
    self._settings = settings
    self._about = about
    self._most_queries = most_queries
    self._in_flight = 0
    self._pool = pool
    self.bridge = bridge.Bridge(pool)
    self._gauges = gauges.Gauges()
    names = plugins.names('retrieval.dialects')
    self._dialects = {name: plugins.load('retrieval.dialects', name) for name in names}
    self.app = web.Application(client_max_size=_MOST_BYTES)
    for path in sorted({path for dialect in self._dialects.values() for path in dialect.PATHS}):
      self.app.router.add_post(path, self._retrieve)
    self.app.router.add_get('/health', self._health)
    self.app.router.add_get('/metrics', self._metrics)

  def close(self) -> None:
    """Fails what is pending still."""
    self.bridge.close()

  async def _retrieve(self, request: web.Request) -> web.Response:
    start = time.perf_counter()
    self._in_flight += 1
    try:
      told = await self._answer(request)
    finally:
      self._in_flight -= 1
    headers = {calls.OUTCOME_HEADER: told.outcome}
    if self._about['build']:
      headers[calls.BUILD_HEADER] = self._about['build']
    if told.outcome == Outcome.OVERLOADED:
      headers['Retry-After'] = _AGAIN_S
    self._gauges.note(told.dialect, told.outcome, told.outcomes, time.perf_counter() - start)
    return web.json_response(told.json, status=told.status, headers=headers)

  async def _answer(self, request: web.Request) -> answering.Told:
    try:
      async with asyncio.timeout(self._settings.deadline_s):
        data = await request.read()
      name, asked = answering.understand(self._dialects, request.path, data, self._settings.top_k)
    except BadRequest as error:
      return answering.refuse(400, 'bad_request', str(error))
    except web.HTTPRequestEntityTooLarge:
      message = f'the body has more than {_MOST_BYTES} bytes'
      return answering.refuse(413, 'bad_request', message)
    except TimeoutError:
      return answering.refuse(408, 'bad_request', 'the body did not come in time')
    if len(asked.queries) > self._most_queries:
      message = f'{len(asked.queries)} queries, more than the {self._most_queries} of --queue'
      return answering.refuse(400, 'bad_request', message)
    if self.bridge.pending + len(asked.queries) > self._most_queries:
      message = f'{self.bridge.pending} queries are in flight already'
      return answering.refuse(429, Outcome.OVERLOADED, message)
    results = await self.bridge.search(asked.queries, asked.top_k)
    return answering.tell(name, self._dialects[name], asked, results)

  async def _health(self, request: web.Request) -> web.Response:
    ready = self._pool.ready()
    free = max(0, ready['search'] - self.bridge.pending)
    is_well = all(ready.values()) and not self.bridge.failure
    told = {
      'status': 'ok' if is_well else 'degraded',  # Processes that were lost come back.
      'retrievers': {'total': self._settings.workers, 'available': free},
      'ready': ready,
      **self._about,
    }
    return web.json_response(told, status=200 if is_well else 503)

  async def _metrics(self, request: web.Request) -> web.Response:
    numbers = {'requests': self._in_flight, 'queries': self.bridge.pending}
    text = self._gauges.text(numbers, self.bridge.stats)
    return web.Response(body=text, headers={'Content-Type': gauges.CONTENT_TYPE})


async def _serve(
  settings: config.Retrieval,
  pool: pools.Pool,
  about: Mapping[str, Any],
  where: tuple[str, int, int],
) -> None:
  host, port, most_queries = where
  stop, loop = asyncio.Event(), asyncio.get_running_loop()
  for number in (signal.SIGTERM, signal.SIGINT):
    loop.add_signal_handler(number, stop.set)
  service = Service(settings, pool, about, most_queries)
  service.bridge.on_failure(stop.set)
  runner = web.AppRunner(service.app, access_log=None, shutdown_timeout=settings.deadline_s)
  await runner.setup()
  try:
    await web.TCPSite(runner, host, port, backlog=_CONNECTIONS).start()
    at, port = runner.addresses[0][:2]
    print(f'jaxsearch serve: {about["documents"]} documents at http://{at}:{port}', flush=True)
    await stop.wait()
    if service.bridge.failure:
      raise UserError(f'the server ends, because its pool has failed: {service.bridge.failure}')
  except OSError as error:
    raise UserError(
      f'nothing can listen at --host={host} --port={port}: {error.strerror}. Give an address of '
      'this machine and another port (0: any that is free), or end what listens there.'
    ) from None
  finally:
    await runner.cleanup()  # Takes no more connections and lets those that wait be answered.
    service.close()


def _about(settings: config.Retrieval, identity: str) -> dict[str, Any]:
  """What is served: `build` names all that answers depend on, by which clients may keep them; empty
  if they depend on more than what is asked."""
  build = hashlib.sha256(identity.encode()).hexdigest()[:16] if identity else ''
  about = {'backend': settings.backend, 'build': build, 'documents': 0}
  if settings.backend not in files.WITHOUT_INDEX:
    about['documents'] = index_folder.read_info(settings.index)['documents']
  return about
