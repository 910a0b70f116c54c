"""The folder that `jaxsearch index` makes: an `index.json` beside the index's own files.

A folder either holds a whole index or nothing: it is written under another name and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsearch.types import UserError

FORMAT = 1
_INFO = 'index.json'


@contextlib.contextmanager
def publish(out: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields an empty folder that replaces `out` when the block ends well, else disappears.

  Raises:
    UserError: if `out` cannot be written, or holds something that is not an index.
  """
  out = pathlib.Path(os.path.abspath(out))
  if out.exists() and not (out / _INFO).is_file() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(
      f'{str(out)!r} exists and is not an index, so it is not replaced. '
      'Choose another folder with --out, or remove this one.'
    )
  draft = out.with_name(f'.{out.name}.draft-{os.getpid()}')
  try:
    draft.mkdir(parents=True)
  except OSError as error:
    raise UserError(
      f'Cannot write the index {str(out)!r}: {error.strerror}. Choose another folder with --out.'
    ) from None
  try:
    yield draft
    _replace(draft, out)
  finally:
    shutil.rmtree(draft, ignore_errors=True)


def write_info(folder: pathlib.Path, info: Mapping[str, Any]) -> None:
  """Writes `index.json`; a folder without it is no index."""
  text = json.dumps({'format': FORMAT, **info}, indent=2, sort_keys=True)
  (folder / _INFO).write_text(text + '\n', encoding='utf-8')


def read_info(folder: str | pathlib.Path) -> dict[str, Any]:
  """What `index.json` says.

  Raises:
    UserError: if `folder` is not an index that this version reads.
  """
  advice = 'Make one with `jaxsearch index --corpus=FILE --out=FOLDER` and name it in its place.'
  if not str(folder):
    raise UserError(f'retrieval.index is empty: no index was named. {advice}')
  try:
    info = json.loads((pathlib.Path(folder) / _INFO).read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(f'{str(folder)!r} is not an index: it has no {_INFO}. {advice}') from None
  except (OSError, ValueError) as error:
    raise UserError(f'{str(folder)!r} is not an index: {_INFO}: {error}. {advice}') from None
  if not isinstance(info, dict) or info.get('format') != FORMAT:
    raise UserError(f'{str(folder)!r} is not an index of format {FORMAT}. {advice}')
  return info


def _replace(draft: pathlib.Path, out: pathlib.Path) -> None:
  """Renames `draft` to `out`; an index that was there before goes only after that."""
  old = out.with_name(f'.{out.name}.old-{os.getpid()}')
  if out.exists():
    out.rename(old)
  draft.rename(out)
  shutil.rmtree(old, ignore_errors=True)
