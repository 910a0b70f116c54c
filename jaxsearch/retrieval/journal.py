"""The answers of a step, written down as they arrive.

A step that is run again, because the run was killed in it, gets the very answers of the first
time, failures included, whatever the retriever would say today. One file of JSON lines per
step; a line that a kill tore apart counts as not written.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, BinaryIO

from jaxsearch.retrieval import _records
from jaxsearch.types import Outcome, SearchRequest, SearchResult, UserError


class Journal:
  """A folder of journals; one step is open at a time."""

  def __init__(self, folder: str | pathlib.Path):
    """Writes nothing: the folder is made when a step is opened."""
    self._folder = pathlib.Path(folder)
    self._file: BinaryIO | None = None
    self._results: dict[tuple[Any, ...], SearchResult] = {}

  def open(self, step: int) -> None:
    """Turns to the journal of `step`: reads what it holds and appends from now on.

    Raises:
      UserError: if the folder cannot be made.
    """
    self.close()
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f'Cannot write the search journal {str(self._folder)!r}: {error.strerror}. '
        'Choose another run_dir or make it writable.'
      ) from None
    path = self._path(step)
    written = path.read_bytes() if path.exists() else b''
    whole = written.rfind(b'\n') + 1
    for line in written[:whole].splitlines():
      try:
        record = json.loads(line)
        self._results[_record_key(record)] = _result(record)
      except (ValueError, KeyError, TypeError):
        continue  # Damaged by something else than us: the search is made again.
    self._file = path.open('ab')
    self._file.truncate(whole)

  def put(self, request: SearchRequest, result: SearchResult) -> None:
    """Writes an answer so that it survives the end of this process."""
    assert self._file is not None, 'no step is open'
    record = {
      'trajectory': request.trajectory,
      'turn': request.turn,
      'attempt': request.attempt,
      'queries': request.queries,
      'outcome': result.outcome,
      'documents': _records.pack(result.documents),
      'latency_s': result.latency_s,
      'message': result.message,
    }
    self._file.write(json.dumps(record).encode() + b'\n')
    self._file.flush()
    self._results[_request_key(request)] = result

  def get(self, request: SearchRequest) -> SearchResult | None:
    """The answer that the open step has for the request, or None."""
    return self._results.get(_request_key(request))

  def prune(self, before_step: int) -> None:
    """Removes the journals of the steps before `before_step`, which no resume can reach."""
    for path in self._folder.glob('*.jsonl'):
      if path.stem.isdigit() and int(path.stem) < before_step:
        path.unlink()

  def forget(self, step: int) -> None:
    """Removes the journal of `step`, so that its searches are made again."""
    self.close()
    self._path(step).unlink(missing_ok=True)

  def close(self) -> None:
    """Closes the open step, if any."""
    if self._file is not None:
      self._file.close()
    self._file = None
    self._results = {}

  def _path(self, step: int) -> pathlib.Path:
    return self._folder / f'{step:08d}.jsonl'


def _request_key(request: SearchRequest) -> tuple[Any, ...]:
  return (request.trajectory, request.turn, request.attempt, *request.queries)


def _record_key(record: dict[str, Any]) -> tuple[Any, ...]:
  return (record['trajectory'], record['turn'], record['attempt'], *record['queries'])


def _result(record: dict[str, Any]) -> SearchResult:
  return SearchResult(
    outcome=Outcome(record['outcome']),
    documents=_records.unpack(record['documents']),
    latency_s=record['latency_s'],
    message=record['message'],
  )
