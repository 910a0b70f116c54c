"""One call to a retrieval server over HTTP: what was answered, or what went wrong, as one word."""

from __future__ import annotations

import dataclasses
import email.utils
import json
import time
from typing import Any

import aiohttp

from jaxsearch.retrieval.failures import Failure
from jaxsearch.types import Outcome

# Larger replies are not read to their end: that many documents are no answer to a few queries.
_MOST_BYTES = 32 * 2**20
_OUTCOMES = {
  408: Outcome.TIMEOUT,
  429: Outcome.OVERLOADED,
  503: Outcome.OVERLOADED,
  504: Outcome.TIMEOUT,
}
OUTCOME_HEADER = 'X-Search-Outcome'
BUILD_HEADER = 'X-Index-Build'


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a server said.

  Attributes:
    json: the body.
    is_partial: a part of the index was not searched, as the server says.
    build: of the index, as the server says; '' if it does not.
  """

  json: Any
  is_partial: bool
  build: str


def session() -> aiohttp.ClientSession:
  """Connections that are kept; call it where the event loop runs."""
  # uvicorn closes connections that are idle for 5 s: they are closed here before that.
  connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
  return aiohttp.ClientSession(connector=connector)


async def post(
  client: aiohttp.ClientSession, url: str, body: dict[str, Any], limit_s: float
) -> Answer:
  """Sends `body` and reads the answer within `limit_s` seconds.

  Raises:
    Failure: for anything but an answer of status 200 that is JSON.
  """
  timeout = aiohttp.ClientTimeout(total=limit_s)
  try:
    async with client.post(url, json=body, timeout=timeout) as response:
      data = await _read(response)
  except (TimeoutError, aiohttp.ClientError, OSError) as error:
    raise _failure(url, error) from None
  if response.status != 200:
    raise _refusal(url, response, data)
  try:
    value = json.loads(data)
  except (ValueError, RecursionError) as error:
    word = 'html_page' if data.lstrip().startswith(b'<') else 'broken_json'
    raise Failure(Outcome.ERROR, f'{word}: {url}: {error}') from None
  partial = response.headers.get(OUTCOME_HEADER) == Outcome.PARTIAL
  return Answer(value, partial, response.headers.get(BUILD_HEADER, ''))


async def health(client: aiohttp.ClientSession, url: str, limit_s: float) -> dict[str, Any]:
  """What a server says of itself at `url`; empty if it says nothing that is understood.

  Raises:
    Failure: if nothing listens there.
  """
  try:
    async with client.get(url, timeout=aiohttp.ClientTimeout(total=limit_s)) as response:
      value = json.loads(await _read(response))
  except aiohttp.ClientConnectorError as error:
    raise _failure(url, error) from None
  except (TimeoutError, aiohttp.ClientError, OSError, ValueError, Failure):
    return {}  # Many servers have no such address, or no time for it while they search.
  return value if isinstance(value, dict) else {}


async def _read(response: aiohttp.ClientResponse) -> bytes:
  parts, size = [], 0
  async for part in response.content.iter_any():
    parts.append(part)
    size += len(part)
    if size > _MOST_BYTES:
      response.close()
      message = f'flood: {response.url}: more than {_MOST_BYTES} bytes'
      raise Failure(Outcome.ERROR, message, blames=False)
  return b''.join(parts)


def _failure(url: str, error: Exception) -> Failure:
  """What an exception of the connection means."""
  if isinstance(error, TimeoutError):  # Some of the library's connection errors are that too.
    return Failure(Outcome.TIMEOUT, f'timeout: {url}: no answer in time')
  if isinstance(error, aiohttp.ClientConnectorError):
    word = 'connect'
  elif isinstance(error, aiohttp.ClientPayloadError):
    word = 'cut_off'
  elif isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | OSError):
    word = 'reset'
  else:
    word = 'bad_http'
  cause = getattr(error, 'os_error', error)
  return Failure(Outcome.ERROR, f'{word}: {url}: {getattr(cause, "strerror", None) or repr(error)}')


def _refusal(url: str, response: aiohttp.ClientResponse, data: bytes) -> Failure:
  """What a status other than 200 means."""
  status = response.status
  shown = data[:200].decode(errors='replace')
  message = f'http_{status}: {url}: {shown}'
  if status == 400 and _outcome(data) == Outcome.BAD_QUERY:  # Said by a server of ours.
    return Failure(Outcome.BAD_QUERY, message, blames=False, is_final=True)
  is_ours = 400 <= status < 500 and status not in (408, 429)
  return Failure(
    _OUTCOMES.get(status, Outcome.ERROR),
    message,
    blames=status >= 500,
    is_final=is_ours,
    again_s=_again_s(response) if status in (429, 503) else None,
  )


def _outcome(data: bytes) -> Any:
  try:
    return json.loads(data)['outcome']
  except (ValueError, LookupError, TypeError):
    return None


def _again_s(response: aiohttp.ClientResponse) -> float | None:
  """Seconds of a Retry-After header, which holds them or a date; None without one."""
  text = response.headers.get('Retry-After', '')
  if text.isdecimal():
    return float(text)
  try:
    return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
  except ValueError:
    return None
