"""What flags that name files and folders must fulfil; a UserError says what does not."""

from __future__ import annotations

import os

from jaxsearch import files
from jaxsearch.types import UserError


def require_file(thing: str, path: str) -> None:
  """`path`, the value of `thing`, is a file."""
  if not os.path.isfile(path):
    raise UserError(f'{thing} is {path!r}, which is not a file; give an existing file.')


def require_file_place(thing: str, path: str) -> None:
  """A file can be written at `path`."""
  if os.path.isdir(path):
    raise UserError(f'{thing} is {path!r}, which is a folder; give a file to write.')
  require_writable(thing, os.path.dirname(os.path.abspath(path)))


def require_new(thing: str, folder: str) -> None:
  """`folder` is not there yet, or empty, and can be made."""
  if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
    raise UserError(f'{thing} is {folder!r}, which holds something; name a new or empty folder.')
  require_writable(thing, folder)


def require_writable(thing: str, folder: str) -> None:
  """Files can be made under `folder`, which need not be there yet."""
  problem = files.unwritable(folder)
  if problem:
    raise UserError(f'{thing} is {folder!r}: {problem}; choose a folder that you may write to.')
