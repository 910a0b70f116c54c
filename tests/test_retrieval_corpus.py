"""Corpus files, plain and compressed."""

import bz2
import gzip
import hashlib
import json
import lzma

import pytest
import zstandard

from jaxsearch.retrieval import corpus
from jaxsearch.types import Document, UserError

LINES = [
  {'id': 'a', 'contents': 'Ada\nAda was born in Lund.\nShe wrote.'},
  {'id': 7, 'contents': '"Bo Ek"\nBo Ek was born in Ůsti — a town.'},
  {'id': 'c', 'contents': 'A text without a title.'},
  {'id': 'd', 'title': 'Dag', 'text': 'Dag is a day.', 'more': [1]},
]
DOCUMENTS = [
  Document('a', 'Ada', 'Ada was born in Lund.\nShe wrote.'),
  Document('7', 'Bo Ek', 'Bo Ek was born in Ůsti — a town.'),
  Document('c', '', 'A text without a title.'),
  Document('d', 'Dag', 'Dag is a day.'),
]


def _write(path, lines):
  path.write_bytes(
    b''.join(x if isinstance(x, bytes) else json.dumps(x).encode() + b'\n' for x in lines)
  )
  return path


def _read(path, start_line=0):
  return list(corpus.Corpus(path).documents(start_line))


PACK = {
  '': bytes,
  '.gz': gzip.compress,
  '.bz2': bz2.compress,
  '.xz': lzma.compress,
  '.zst': zstandard.ZstdCompressor(write_checksum=True).compress,  # As the zstd command does.
}


def test_both_shapes_of_line_are_read(tmp_path):
  path = _write(tmp_path / 'c.jsonl', [*LINES[:2], b'\n', *LINES[2:]])
  assert _read(path) == DOCUMENTS
  assert [_read(path, n) for n in (1, 2, 3, 5)] == [DOCUMENTS[n:] for n in (1, 2, 2, 4)]


def test_only_line_feeds_end_a_line(tmp_path):
  path = tmp_path / 'c.jsonl'
  path.write_bytes('{"id": "a", "contents": "T\\nx\u2028y\x85z"}\r\n'.encode())
  assert _read(path) == [Document('a', 'T', 'x\u2028y\x85z')]


@pytest.mark.parametrize('suffix', PACK)
def test_a_compressed_corpus_is_the_same_corpus(tmp_path, suffix):
  text = _write(tmp_path / 'c.jsonl', LINES).read_bytes()
  path = tmp_path / f'packed.jsonl{suffix}'
  # Two streams, one after the other, as parallel compressors write them; then 3 MB of blank lines.
  path.write_bytes(PACK[suffix](text[:100]) + PACK[suffix](text[100:] + b' \n' * 1_500_000))
  file = corpus.Corpus(path)
  assert list(file.documents()) == DOCUMENTS
  assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
  assert file.bytes_read == file.inputs['bytes'] == path.stat().st_size


@pytest.mark.parametrize('damage', ['cut off', 'broken'])
@pytest.mark.parametrize('suffix', [s for s in PACK if s])
def test_a_broken_compressed_file_is_named_with_its_line(tmp_path, suffix, damage):
  lines = [{'id': str(i), 'contents': hashlib.sha256(b'%d' % i).hexdigest()} for i in range(9000)]
  packed = bytearray(PACK[suffix](_write(tmp_path / 'c.jsonl', lines).read_bytes()))
  half = len(packed) // 2
  if damage == 'cut off':
    del packed[half:]
  else:
    packed[half : half + 64] = bytes(64)
  (tmp_path / f'c{suffix}').write_bytes(packed)
  reason = 'the file cannot be read on'
  reason = reason if damage == 'cut off' else f'({reason}|not JSON|field)'
  with pytest.raises(UserError, match=rf'c{suffix}, line \d+[:,] {reason}'):
    _read(tmp_path / f'c{suffix}')


def test_what_follows_the_compressed_data_counts_for_the_digest(tmp_path):
  path = tmp_path / 'c.jsonl.bz2'
  path.write_bytes(bz2.compress(json.dumps(LINES[0]).encode()) + bytes(3_000_000))
  file = corpus.Corpus(path)
  assert list(file.documents()) == DOCUMENTS[:1]
  assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
  'line, field',
  [
    (b'{"id": "x", "contents": "torn\n', 'not JSON'),
    (b'{"id": "x", "contents": "\xff"}\n', 'not JSON'),
    (['x'], 'list'),
    ({'contents': 'T\nt'}, 'field id'),
    ({'id': True, 'contents': 'T\nt'}, 'field id'),
    ({'id': 'x'}, 'field contents'),
    ({'id': 'x', 'contents': 3}, 'field contents'),
    ({'id': 'x', 'contents': ' \n '}, 'field contents'),
    ({'id': 'x', 'title': None, 'text': 't'}, 'field title'),
    ({'id': 'x', 'contents': 'long ' * corpus.MAX_CHARACTERS}, 'field contents'),
    ({'id': 'x', 'contents': '\ud800'}, 'surrogate'),
  ],
)
def test_a_broken_line_is_named(tmp_path, line, field):
  path = _write(tmp_path / 'c.jsonl', [LINES[0], line])
  with pytest.raises(UserError, match=field) as error:
    _read(path)
  assert f'{path}, line 2' in str(error.value)


def test_missing_and_empty_corpora_are_refused(tmp_path):
  with pytest.raises(UserError, match='not a file'):
    _read(tmp_path / 'none.jsonl')
  with pytest.raises(UserError, match='empty'):
    _read(_write(tmp_path / 'c.jsonl', [b'\n']))


def test_one_endless_line_is_no_corpus(tmp_path):
  (tmp_path / 'c.json').write_bytes(b'[' + b'{"id": "a", "contents": "x"}, ' * 600_000)
  with pytest.raises(UserError, match='line 1: longer than'):
    _read(tmp_path / 'c.json')


def test_a_corpus_that_changes_meanwhile_is_refused(tmp_path):
  path = _write(tmp_path / 'c.jsonl', LINES)
  documents = corpus.Corpus(path).documents()
  next(documents)
  _write(path, LINES[:2])
  with pytest.raises(UserError, match='changed'):
    list(documents)
