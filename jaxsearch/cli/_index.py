"""The verb that makes an index: `index`."""

from __future__ import annotations

import re
import sys
from typing import Any

from absl import flags

from jaxsearch.cli import _flags, _paths
from jaxsearch.types import UserError

_PARTS = ('bm25', 'dense')
_UNITS = {'MiB': 2**20, 'GiB': 2**30, 'TiB': 2**40, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


def index(argv: list[str]) -> None:
  """Index a corpus of documents: by words, by vectors, or both."""
  values = flags.FlagValues()
  corpus = flags.DEFINE_string(
    'corpus', None, 'JSON lines, plain or .gz, .bz2, .xz, .zst.', values, required=True
  )
  out = flags.DEFINE_string('out', None, 'Folder to write.', values, required=True)
  parts = flags.DEFINE_list(
    'parts', None, 'bm25, dense; both, if any of the flags of dense is given, else bm25.', values
  )
  stemmer = flags.DEFINE_string(
    'stemmer', 'english', 'bm25: Snowball language; empty: none.', values
  )
  memory = flags.DEFINE_string('memory', '16GiB', 'dense: what a search may keep in it.', values)
  for name, what in (
    ('encoder', 'Hugging Face folder of the text encoder.'),
    ('embeddings', 'vectors that exist (.npy, bare array, zarr), or a place to write them.'),
    ('faiss', 'an index file that exists, to be linked.'),
    ('factory', 'string for FAISS; empty: as corpus and memory have it.'),
  ):
    flags.DEFINE_string(name, '', f'dense: {what}', values)
  _flags.parse('index', values, argv)
  _paths.require_file('--corpus', corpus.value)
  _paths.require_writable('--out', out.value)
  given = {name: values[name].value for name in ('encoder', 'embeddings', 'faiss', 'factory')}
  chosen = _parts(parts.value, given)
  from jaxsearch.retrieval.indexing import build

  budget = _bytes(memory.value)
  try:
    info = build.build(
      corpus.value,
      out.value,
      bm25=build.Bm25Options(stemmer.value) if 'bm25' in chosen else None,
      dense=_dense(given, budget) if 'dense' in chosen else None,
    )
  except OSError as error:
    raise UserError(
      f'the index {out.value!r} cannot be written or its corpus not be read: {error}. Mend that '
      '(is the disk full?); the same command goes on from where it is.'
    ) from None
  print(f'indexed {info["documents"]} documents in {out.value}')
  if 'dense' in info:
    print(_said(info['dense']))
    _warn(info['dense'])


def _parts(asked: list[str] | None, given: dict[str, str]) -> list[str]:
  sources = [name for name in ('encoder', 'embeddings', 'faiss') if given[name]]
  chosen = asked or (list(_PARTS) if sources else ['bm25'])
  unknown = [part for part in chosen if part not in _PARTS]
  if unknown:
    raise UserError(f'--parts has {unknown[0]!r}; allowed: {", ".join(_PARTS)}.')
  if 'dense' in chosen and not sources:
    raise UserError(
      'the part dense needs vectors. Give --encoder=HF_FOLDER, or vectors or an index that exist, '
      'with --embeddings or --faiss.'
    )
  for name, value in given.items():
    if value and 'dense' not in chosen:
      raise UserError(f'--{name} is {value!r}, but the part dense is not made. Add it to --parts.')
  if given['faiss'] and given['factory']:
    raise UserError('--faiss and --factory are both given; an index that exists has its factory.')
  return chosen


def _dense(given: dict[str, str], memory: int) -> Any:
  """Options of the dense part, with the encoder opened."""
  from jaxsearch.retrieval.indexing import dense

  encoder = None
  if given['encoder']:
    from jaxsearch.encoding import text_encoder

    encoder = text_encoder.open(given['encoder'])
  rest = {name: given[name] for name in ('embeddings', 'faiss', 'factory')}
  return dense.DenseOptions(memory, encoder, given['encoder'], **rest)


def _bytes(text: str) -> int:
  """'16GiB' as a number."""
  match = re.fullmatch(rf'(\d+(?:\.\d+)?) ?({"|".join(_UNITS)})', text)
  count = int(float(match[1]) * _UNITS[match[2]]) if match else 0
  if not count:
    raise UserError(
      f'--memory is {text!r}; allowed: a number above 0 and a unit ({", ".join(_UNITS)}), such as '
      '16GiB.'
    )
  return count


def _warn(dense: dict[str, Any]) -> None:
  """Says so if the index finds less than it should."""
  recall = dense['recall'] or {'at': {}, 'target': 0.0}
  found = recall['at'].get('3', 1.0)  # A corpus may have fewer than three.
  if found < recall['target']:
    print(
      f'jaxsearch index: of the three nearest documents this index finds {found:.3f}, '
      f'less than {recall["target"]}. More --memory or another --factory may find more.',
      file=sys.stderr,
    )


def _said(dense: dict[str, Any]) -> str:
  """One line about the dense part: what was chosen, why, and what it finds."""
  found = dense['recall']
  recall = (
    ', '.join(f'{share:.3f} at {k}' for k, share in found['at'].items())
    if found
    else 'not measured, for want of vectors (--embeddings)'
  )
  made = f'{dense["factory"]} ({dense["reason"]})' if 'factory' in dense else dense['adopted']
  search = ', '.join(f'{name} {value}' for name, value in dense['search'].items()) or 'exact'
  return f'dense: {made}; {search}; recall {recall}'
