"""What a verb costs: its seconds and peak memory, for whoever set JAXSEARCH_USAGE."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
import time
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def usage(verb: str) -> Iterator[None]:
  """Appends the seconds and the peak memory of a verb to the file named by JAXSEARCH_USAGE.

  Memory is the resident size of the process and its workers together, sampled four times a
  second. Without the variable nothing is measured.
  """
  path = os.environ.get('JAXSEARCH_USAGE', '')
  if not path or os.environ.get('JAXSEARCH_PROCESS_ID', '0') != '0':
    yield
    return
  start, done, peak = time.monotonic(), threading.Event(), [0]
  watcher = threading.Thread(target=_watch, args=(done, peak), daemon=True)
  watcher.start()
  try:
    yield
  finally:
    done.set()
    watcher.join()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = {
      'verb': verb,
      'seconds': round(time.monotonic() - start, 2),
      'peak_rss_mb': round(max(peak[0], own) / 2**20, 1),
    }
    with open(path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


def _watch(done: threading.Event, peak: list[int]) -> None:
  me = psutil.Process()
  while not done.wait(0.25):
    total = 0
    for process in [me, *me.children(recursive=True)]:
      with contextlib.suppress(psutil.Error):
        total += process.memory_info().rss
    peak[0] = max(peak[0], total)
