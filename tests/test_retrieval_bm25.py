"""The BM25 backend."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from jaxsearch import config
from jaxsearch.retrieval.backends import bm25
from jaxsearch.retrieval.indexing import build
from jaxsearch.types import Outcome, SearchRequest, UserError

CONTENTS = [
  'Mira Tolan\nA painter from Osk.',
  'Osk\nA harbour city. Its mayor is Bren Vash.',
  'Bren Vash\nBren Vash was born in Kel and married Mira Tolan.',
  'Twin\nThe same words stand here.',
  'Twin\nThe same words stand here.',
  'Twin\nThe same words stand here.',
]


def _request(*queries, top_k=3):
  return SearchRequest('0.0.0', 0, 0, queries, top_k, 'q', 0.0, 1)


def _ids(result):
  return [[d.id for d in found] for found in result.documents]


def _build(folder, out, **options):
  return build.build(f'{folder}/corpus.jsonl', str(out), bm25=build.Bm25Options(**options))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('bm25')
  lines = [json.dumps({'id': f'd{i}', 'contents': c}) for i, c in enumerate(CONTENTS)]
  (root / 'corpus.jsonl').write_text('\n'.join(lines) + '\n')
  _build(root, root / 'index')
  return root


@pytest.fixture(scope='module')
def backend(folder):
  return bm25.open(config.Retrieval(index=str(folder / 'index')))


def test_the_best_document_is_first_and_scores_fall(backend):
  [result] = backend.search([_request('Who is Bren Vash?', 'painter from OSK')])
  assert result.outcome is Outcome.OK
  assert _ids(result) == [['d2', 'd1'], ['d0', 'd1']]
  for found in result.documents:
    scores = [d.score for d in found]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0


def test_words_are_stemmed_and_titles_count(backend):
  [result] = backend.search([_request('paintings of harbours', 'twins')])
  assert _ids(result)[0] == ['d1'] and _ids(result)[1] == ['d3', 'd4', 'd5']


@pytest.mark.parametrize('top_k, ids', [(1, ['d3']), (2, ['d3', 'd4']), (9, ['d3', 'd4', 'd5'])])
def test_ties_go_by_corpus_order(backend, top_k, ids):
  assert _ids(backend.search([_request('same words', top_k=top_k)])[0]) == [ids]


@pytest.mark.parametrize('query', ['zyzzyva', '', '   ', '?!', 'the of and', '\u200b'])
def test_a_query_without_known_words_finds_nothing(backend, query):
  [result] = backend.search([_request(query)])
  assert result.outcome is Outcome.EMPTY and result.documents == ((),)


def test_odd_queries_are_answered(backend):
  long = 'Bren Vash ' * 5000
  [result] = backend.search([_request(long, 'zyzzyva Kel', 'Bren\x00Vash')])
  assert _ids(result) == [['d2', 'd1'], ['d2'], ['d2', 'd1']]


def test_company_does_not_change_an_answer(backend, folder):
  requests = [_request(c.replace('\n', ' '), top_k=1 + i % 3) for i, c in enumerate(CONTENTS)]
  together = backend.search(requests)
  assert together == [backend.search([r])[0] for r in requests]
  assert together == bm25.open(config.Retrieval(index=str(folder / 'index'))).search(requests)


def test_building_again_gives_the_same_index(folder, backend, tmp_path):
  info = _build(folder, tmp_path / 'index')
  before = {
    p.relative_to(folder / 'index'): p for p in (folder / 'index').rglob('*') if p.is_file()
  }
  assert info['documents'] == 6 and len(before) > 5
  for name, path in before.items():
    assert (tmp_path / 'index' / name).read_bytes() == path.read_bytes(), name
  plain = _build(folder, tmp_path / 'plain', stemmer='')
  assert plain['build'] != info['build']


def test_what_cannot_be_built_or_opened_is_a_user_error(folder, tmp_path):
  (tmp_path / 'c.jsonl').write_text('{"id": "x", "contents": "?!"}\n')
  with pytest.raises(UserError, match='no words'):
    build.build(str(tmp_path / 'c.jsonl'), str(tmp_path / 'index'))
  assert not (tmp_path / 'index').exists()
  with pytest.raises(UserError, match='danish'):
    _build(folder, tmp_path / 'index', stemmer='klingon')
  with pytest.raises(UserError, match='jaxsearch index'):
    bm25.open(config.Retrieval(index=str(tmp_path / 'index')))


@pytest.fixture
def copied(folder, tmp_path):
  return pathlib.Path(shutil.copytree(folder / 'index', tmp_path / 'copied'))


@pytest.mark.parametrize('package', ['bm25s', 'PyStemmer'])
def test_an_index_of_another_version_is_refused_with_both(copied, package):
  info = json.loads((copied / 'index.json').read_text())
  installed = info['bm25']['versions'][package]
  info['bm25']['versions'][package] = '0.1.7'
  (copied / 'index.json').write_text(json.dumps(info))
  with pytest.raises(UserError, match=f'made with {package} 0.1.7, and {installed} is installed'):
    bm25.open(config.Retrieval(index=str(copied)))


@pytest.mark.parametrize(
  'name', ['bm25/data.csc.index.npy', 'documents.utf8', 'bm25/params.index.json']
)
def test_half_an_index_is_refused(copied, name):
  data = (copied / name).read_bytes()
  (copied / name).write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match='damaged'):
    bm25.open(config.Retrieval(index=str(copied)))


def test_files_of_two_indexes_are_refused(copied, tmp_path):
  """Their stores differ by a document."""
  (tmp_path / 'c.jsonl').write_text('{"id": "x", "contents": "osk"}\n')
  build.build(str(tmp_path / 'c.jsonl'), str(tmp_path / 'other'))
  for path in (tmp_path / 'other').glob('documents.*'):
    shutil.copy(path, copied)
  with pytest.raises(UserError, match='1 documents are stored and 6 indexed'):
    bm25.open(config.Retrieval(index=str(copied)))


def test_an_answer_is_as_good_as_its_index(backend, folder, tmp_path):
  _build(folder, tmp_path / 'plain', stemmer='')
  identities = [
    bm25.open(config.Retrieval(index=str(place))).identity
    for place in (folder / 'index', tmp_path / 'plain')
  ]
  assert backend.identity == identities[0] != identities[1]


def test_a_fresh_process_searches_without_jax(folder):
  """The JAX that is installed here would otherwise start its backend inside `import bm25s`."""
  request = dataclasses.astuple(_request('Bren Vash'))
  program = f"""
import sys
from jaxsearch import config
from jaxsearch.retrieval.backends import bm25
from jaxsearch.types import SearchRequest
backend = bm25.open(config.Retrieval(index={str(folder / 'index')!r}))
assert backend.search([SearchRequest(*{request!r})])[0].documents
print(sorted(m for m in sys.modules if m.split('.')[0] in ('jax', 'jaxlib', 'scipy')))
import jax
assert jax.numpy.ones(1)[0] == 1
"""
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout == '[]\n'
