"""The folder that `jaxsearch index` makes: `index.json` beside the documents and the index's parts.

A folder either holds a whole index or is none. It is built as a draft beside its place, which
outlives a kill: the next build of the same inputs goes on from it. A finished draft takes its place
by a rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsearch.types import UserError

FORMAT = 2
_INFO = 'index.json'
_INPUTS = 'inputs.json'
_LOCK = 'lock'
_OLD = 'old'
_MAKE = {
  'bm25': 'jaxsearch index --corpus=FILE --out=FOLDER',
  'dense': 'jaxsearch index --corpus=FILE --out=FOLDER --encoder=HF_FOLDER',
}


@contextlib.contextmanager
def drafting(out: str | pathlib.Path, inputs: Mapping[str, Any]) -> Iterator[pathlib.Path]:
  """Yields the folder of an index being built; it replaces `out` when the block ends well.

  After a kill or an error it stays, and the next build with the same `inputs` is given it as it
  was left; a draft of other inputs is removed. Its parent is for files that are no part of the
  index: they stay and go with the draft.

  Args:
    out: place of the finished index; an index that is there is replaced at the very end.
    inputs: whatever the result depends on, as JSON.

  Raises:
    UserError: if `out` cannot be written, holds something that is not an index, or is being built
      by another process.
  """
  out = pathlib.Path(os.path.abspath(out))
  if out.exists() and not (out / _INFO).is_file() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(
      f'{str(out)!r} exists and is not an index, so it is not replaced. '
      'Choose another folder with --out, or remove this one.'
    )
  if os.path.ismount(out):
    raise UserError(
      f'{str(out)!r} is the root of a disk, which a finished index cannot replace. Choose a folder '
      'in it with --out.'
    )
  draft = out.with_name(f'.{out.name}.draft')
  with _locked(draft, out):
    if (draft / _OLD).exists() and not out.exists():
      (draft / _OLD).rename(out)  # Killed between the two renames of `_publish`.
    folder = draft / 'index'
    if not folder.is_dir() or _read_inputs(draft) != json.loads(json.dumps(inputs)):
      _empty(draft)
      folder.mkdir()
      write_json(draft / _INPUTS, inputs)
    yield folder
    _publish(draft, out)


def write_info(folder: pathlib.Path, info: Mapping[str, Any]) -> dict[str, Any]:
  """Writes `info` as `index.json`, with format and build id, and returns what it wrote.

  A folder without that file is no index, so this is the last step of a build. The build id stands
  for all that `info` says.
  """
  text = json.dumps(info, sort_keys=True)
  build = hashlib.sha256(text.encode()).hexdigest()[:16]
  whole = {'format': FORMAT, 'build': build, **info}
  write_json(folder / _INFO, whole)
  return whole


def read_info(folder: str | pathlib.Path) -> dict[str, Any]:
  """What `index.json` says.

  Raises:
    UserError: if `folder` is not an index that this version reads.
  """
  advice = f'Make one with `{_MAKE["bm25"]}` and name it in its place.'
  if not str(folder):
    raise UserError(f'retrieval.index is empty: no index was named. {advice}')
  try:
    info = json.loads((pathlib.Path(folder) / _INFO).read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(f'{str(folder)!r} is not an index: it has no {_INFO}. {advice}') from None
  except (OSError, ValueError) as error:
    raise UserError(f'{str(folder)!r} is not an index: {_INFO}: {error}. {advice}') from None
  found = info.get('format') if isinstance(info, dict) else None
  if found != FORMAT:
    raise UserError(
      f'{str(folder)!r} is not an index of format {FORMAT}: its format is {found!r}. {advice}'
    )
  return info


def read_part(folder: str | pathlib.Path, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """(what `index.json` says, what it says of `part`), which is 'bm25' or 'dense'.

  Raises:
    UserError: if `folder` is not an index, or one without that part.
  """
  info = read_info(folder)
  if part not in info:
    held = ' and '.join(name for name in _MAKE if name in info)
    raise UserError(
      f'The index {str(folder)!r} has {held or "no part at all"}, not {part}. Name another '
      f'retrieval.backend, or make an index that has it with `{_MAKE[part]}`.'
    )
  return info, info[part]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` so that `path` holds all of it or what it held before, whatever happens."""
  draft = path.with_name(f'{path.name}.partial')
  with draft.open('w', encoding='utf-8') as file:
    file.write(json.dumps(value, indent=2, sort_keys=True) + '\n')
    file.flush()
    os.fsync(file.fileno())
  draft.replace(path)


@contextlib.contextmanager
def _locked(draft: pathlib.Path, out: pathlib.Path) -> Iterator[None]:
  """Makes the folder `draft` and keeps every other build out of it, until this process ends."""
  try:
    draft.mkdir(parents=True, exist_ok=True)
    lock = (draft / _LOCK).open('a+', encoding='utf-8')
  except OSError as error:
    raise UserError(
      f'Cannot write the index {str(out)!r}: {error.strerror}. Choose another folder with --out.'
    ) from None
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # The build that held it may have published and removed it a moment ago.
      held = os.path.samestat(os.fstat(lock.fileno()), os.stat(draft / _LOCK))
    except (BlockingIOError, FileNotFoundError):
      held = False
    except OSError as error:
      raise UserError(
        f'Cannot lock the index {str(out)!r}: {error.strerror}. Build it on a local disk.'
      ) from None
    if not held:
      lock.seek(0)
      raise UserError(
        f'The index {str(out)!r} is being built by {lock.read().strip() or "another process"}. '
        'Wait for it, end it, or choose another folder with --out.'
      )
    lock.truncate(0)
    lock.write(f'process {os.getpid()} on {socket.gethostname()}')
    lock.flush()
    yield


def _read_inputs(draft: pathlib.Path) -> Any:
  try:
    return json.loads((draft / _INPUTS).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None


def _empty(draft: pathlib.Path) -> None:
  """Removes all but the lock, first of all what says whose draft it is."""
  (draft / _INPUTS).unlink(missing_ok=True)
  for path in draft.iterdir():
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    elif path.name != _LOCK:
      path.unlink()


def _publish(draft: pathlib.Path, out: pathlib.Path) -> None:
  """Renames the index to `out`; one that was there before goes only after that."""
  if out.exists():
    out.rename(draft / _OLD)
  (draft / 'index').rename(out)
  _empty(draft)
  (draft / _LOCK).unlink()
  with contextlib.suppress(OSError):  # Another build has begun here already.
    draft.rmdir()
