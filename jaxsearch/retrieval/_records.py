"""Documents as plain lists, the form in which answers are written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxsearch.types import Document

Documents = tuple[tuple[Document, ...], ...]


def pack(documents: Documents) -> list[Any]:
  """Lists that JSON holds without loss."""
  return [[[d.id, d.title, d.text, d.score] for d in found] for found in documents]


def unpack(lists: Sequence[Any]) -> Documents:
  """The documents of `pack`; TypeError or ValueError for anything else."""
  return tuple(tuple(Document(*fields) for fields in found) for found in lists)
