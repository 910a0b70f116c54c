"""Answers by what was asked: the last ones in memory, all of them in a file if there is one.

A key holds everything that an answer depends on: the identity of the stages (index, encoder,
search parameters), the number of documents and the queries, as they are spelled. So a file may be
shared by the runs of a host, and an index that was built anew answers anew. Failures are never
kept.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pathlib
import sqlite3
import sys

from jaxsearch.retrieval import _records
from jaxsearch.types import Outcome, SearchRequest, SearchResult, UserError

_BUSY_S = 0.05  # Another process writes; a miss costs less than waiting.


class Cache:
  """A table from requests to results, asked by one thread."""

  def __init__(self, identity: str, entries: int, path: str = ''):
    """Opens the file, which is made if it is not there.

    Args:
      identity: of the backend, not empty.
      entries: answers kept in memory, the last used ones.
      path: SQLite file; '' for none.

    Raises:
      UserError: if the file cannot be made or is none of ours.
    """
    self._identity = identity
    self._entries = entries
    self._memory: collections.OrderedDict[bytes, SearchResult] = collections.OrderedDict()
    self._path = path
    self._file = _open(path) if path else None

  def key(self, request: SearchRequest) -> bytes:
    """What the answer to the request depends on, as 32 bytes."""
    text = json.dumps([self._identity, request.top_k, request.queries])
    return hashlib.sha256(text.encode()).digest()

  def get(self, key: bytes) -> SearchResult | None:
    """The answer, or None."""
    if key in self._memory:
      self._memory.move_to_end(key)
      return self._memory[key]
    rows = self._ask('SELECT outcome, documents FROM answers WHERE key = ?', (key,))
    if not rows:
      return None
    try:
      outcome, documents = rows[0]
      result = SearchResult(Outcome(outcome), _records.unpack(json.loads(documents)))
    except (ValueError, TypeError):
      return None  # Damaged by something else than us: the search is made again.
    self._remember(key, result)
    return result

  def put(self, key: bytes, result: SearchResult) -> None:
    """Keeps an answer of outcome ok or empty; others are no answers to keep."""
    if result.outcome not in (Outcome.OK, Outcome.EMPTY):
      return
    self._remember(key, result)
    if self._file is not None:
      row = (key, str(result.outcome), json.dumps(_records.pack(result.documents)))
      self._ask('INSERT OR REPLACE INTO answers VALUES (?, ?, ?)', row)

  def close(self) -> None:
    """Closes the file; everything put is in it."""
    if self._file is not None:
      self._file.close()
    self._file = None

  def _remember(self, key: bytes, result: SearchResult) -> None:
    self._memory[key] = result
    if len(self._memory) > self._entries:
      self._memory.popitem(last=False)

  def _ask(self, statement: str, values: tuple[object, ...]) -> list[tuple[str, str]]:
    """Rows of the file; none without one, or while another process holds it."""
    if self._file is None:
      return []
    try:
      return self._file.execute(statement, values).fetchall()
    except sqlite3.OperationalError as error:
      if 'locked' not in str(error):
        self._give_up(error)
    except sqlite3.Error as error:
      self._give_up(error)
    return []

  def _give_up(self, error: sqlite3.Error) -> None:
    """A full disk or a damaged file costs searches, not the run."""
    print(f'The cache {self._path!r} is not used any more: {error}.', file=sys.stderr)
    self.close()


def _open(path: str) -> sqlite3.Connection:
  if '://' in path:
    raise UserError(
      f'retrieval.cache is {path!r}; allowed: a file on a disk of this host, which no other host '
      'writes to.'
    )
  try:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Autocommit; opened by the thread that makes the pool and used by the one that runs it.
    file = sqlite3.connect(path, _BUSY_S, isolation_level=None, check_same_thread=False)
    # A crash of the machine may lose the last answers, never the file.
    file.execute('PRAGMA journal_mode = WAL')
    file.execute('PRAGMA synchronous = NORMAL')
    file.execute(
      'CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, outcome TEXT, documents TEXT)'
    )
    file.execute('SELECT key, outcome, documents FROM answers LIMIT 1').fetchall()
  except (OSError, sqlite3.Error) as error:
    raise UserError(
      f'retrieval.cache is {path!r}, which cannot be used: {error}. Give the name of a new file, '
      'or leave it empty to keep answers in memory only.'
    ) from None
  return file
