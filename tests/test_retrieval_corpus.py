"""The corpus file, the document store and the index folder."""

import json

import pytest

from jaxsearch.retrieval import corpus, index_folder
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


def test_both_shapes_of_line_are_read(tmp_path):
  assert (
    list(corpus.read(_write(tmp_path / 'c.jsonl', [*LINES[:2], b'\n', *LINES[2:]]))) == DOCUMENTS
  )


@pytest.mark.parametrize(
  'line, field',
  [
    (b'{"id": "x", "contents": "torn\n', 'not JSON'),
    (b'{"id": "x", "contents": "\xff"}\n', 'not JSON'),
    (['x'], 'list'),
    ({'contents': 'T\nt'}, 'field id'),
    ({'id': True, 'contents': 'T\nt'}, 'field id'),
    ({'id': 'a', 'contents': 'T\nt'}, 'field id'),
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
    list(corpus.read(path))
  assert f'{path}, line 2' in str(error.value)


def test_missing_and_empty_corpora_are_refused(tmp_path):
  with pytest.raises(UserError, match='not a file'):
    list(corpus.read(tmp_path / 'none.jsonl'))
  with pytest.raises(UserError, match='empty'):
    list(corpus.read(_write(tmp_path / 'c.jsonl', [b'\n'])))


def test_the_store_gives_back_what_was_written(tmp_path):
  assert corpus.write_store(iter(DOCUMENTS), tmp_path) == 4
  store = corpus.Store(tmp_path)
  assert [store.document(i) for i in range(len(store))] == DOCUMENTS
  assert store.document(2, 1.5).score == 1.5


def test_an_index_appears_whole_or_not_at_all(tmp_path):
  out = tmp_path / 'deep' / 'index'
  with pytest.raises(RuntimeError), index_folder.publish(out) as folder:
    index_folder.write_info(folder, {'kind': 'x'})
    raise RuntimeError
  assert not list(out.parent.iterdir())
  for kind in ('first', 'second'):
    with index_folder.publish(out) as folder:
      index_folder.write_info(folder, {'kind': kind})
  assert index_folder.read_info(out)['kind'] == 'second'
  assert list(out.parent.iterdir()) == [out]


def test_what_is_not_an_index_is_neither_read_nor_replaced(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(UserError, match='not replaced'), index_folder.publish(tmp_path):
    pass
  for folder in ('', tmp_path, tmp_path / 'missing'):
    with pytest.raises(UserError, match='jaxsearch index'):
      index_folder.read_info(folder)
  (tmp_path / 'index.json').write_text('{"format": 999}')
  with pytest.raises(UserError, match='format 1'):
    index_folder.read_info(tmp_path)
