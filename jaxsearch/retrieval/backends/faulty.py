"""BM25 that fails on purpose, as a `faults.json` in the index folder says: for tests and drills.

  {"latency_s": [0.0, 0.3], "timeout": 0.1, "crash": 0.02, "once": true}

`latency_s` bounds a uniform delay. Each other number is the share of requests that meet that
fault; the request's key decides which. A `slow` one takes `slow_times` as long (50). With `once` a
key meets its fault only the first time, so that a retry succeeds. A batch takes as long as its
slowest request. With `cached` the pool may keep the answers, as it keeps those of BM25.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsearch import config
from jaxsearch.retrieval.backends import bm25
from jaxsearch.types import Document, Outcome, SearchRequest, SearchResult, UserError

_FILE = 'faults.json'
_OUTCOMES = ('error', 'timeout', 'overloaded')
_WHOLE_BATCH = ('raise', 'crash', 'hang', 'hoard', 'miscount')
_LIES = ('nan', 'no_list', 'flood', 'huge')
_FAULTS = _OUTCOMES + _WHOLE_BATCH + _LIES + ('slow',)
_OTHERS = ('latency_s', 'slow_times', 'once', 'cached')
_HOARD = 2**33  # Bytes.


class Faulty:
  """A BM25 index and the faults that it meets.

  Attributes:
    identity: the index's own if answers may be kept.
  """

  def __init__(self, folder: str):
    self._backend = bm25.Bm25(folder)
    self._folder = pathlib.Path(folder)
    self._faults = _read(self._folder / _FILE)
    self.identity = self._backend.identity if self._faults.get('cached') else ''

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """BM25's answers, late or spoilt; or the process ends, hangs or raises."""
    faults = [self._meet(request.key) for request in requests]
    time.sleep(max(map(self._delay_s, requests, faults)))
    if 'crash' in faults:
      os._exit(1)
    if 'hang' in faults:
      time.sleep(3600)
    if 'hoard' in faults:
      np.empty(_HOARD, np.uint8)  # Asked for, but not touched.
    if 'raise' in faults:
      raise OSError('a fault was asked for')
    results = [_spoil(r, fault) for r, fault in zip(self._backend.search(requests), faults)]
    return results[1:] if 'miscount' in faults else results

  def _delay_s(self, request: SearchRequest, fault: str) -> float:
    times = self._faults.get('slow_times', 50) if fault == 'slow' else 1
    return times * latency_s(self._faults, request.key)

  def _meet(self, key: int) -> str:
    """The fault of this request now; '' for none."""
    fault = draw(self._faults, key)
    if not fault or not self._faults.get('once'):
      return fault
    seen = self._folder / 'seen'
    seen.mkdir(exist_ok=True)
    try:
      (seen / str(key)).touch(exist_ok=False)
    except FileExistsError:
      return ''
    return fault


def open(config: config.Retrieval) -> Faulty:
  """Opens a BM25 index; raises UserError if it or its `faults.json` is missing or wrong."""
  return Faulty(config.index)


def draw(faults: Mapping[str, Any], key: int) -> str:
  """Name of the fault that a request with this key meets; '' for none."""
  place = random.Random(key).random()
  for name in _FAULTS:
    place -= faults.get(name, 0.0)
    if place < 0:
      return name
  return ''


def latency_s(faults: Mapping[str, Any], key: int) -> float:
  """Seconds by which a request with this key is late."""
  return random.Random(key + 1).uniform(*faults.get('latency_s', (0.0, 0.0)))


def _spoil(result: SearchResult, fault: str) -> SearchResult:
  lie = Document('lie', 'Lie', 'A lie.', float('nan') if fault == 'nan' else 1.0)
  if fault in _OUTCOMES:
    return SearchResult(Outcome(fault), message='a fault was asked for')
  if fault == 'nan':
    return SearchResult(Outcome.OK, ((lie,),) * len(result.documents))
  if fault == 'no_list':
    return SearchResult(Outcome.OK)
  if fault == 'flood':
    return SearchResult(Outcome.OK, ((lie,) * 5000,) * len(result.documents))
  if fault == 'huge':
    huge = dataclasses.replace(lie, text='lie ' * 1_000_000)
    return SearchResult(Outcome.OK, ((huge,),) * len(result.documents))
  return result


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    faults = json.loads(path.read_text(encoding='utf-8'))
    unknown = set(faults) - {*_FAULTS, *_OTHERS}
    if unknown or sum(faults.get(name, 0.0) for name in _FAULTS) > 1.0:
      raise ValueError(f'unknown {sorted(unknown)} or shares above 1')
  except (OSError, ValueError, TypeError) as error:
    raise UserError(
      f'{path}: {error}. The backend faulty needs this file: a JSON object with some of '
      f'{", ".join((*_OTHERS, *_FAULTS))}; the shares of faults add up to at most 1.'
    ) from None
  return faults
