"""Dense indexes: how they are built, and what the backend answers from them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import dense_worker
import faiss
import numpy as np
import pytest
from vectors_of_words import WordEncoder

from jaxsearch import config
from jaxsearch.retrieval import faiss_index, index_folder, store
from jaxsearch.retrieval.backends import dense as backend
from jaxsearch.retrieval.indexing import dense, lists, vectors
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import Document, Outcome, SearchRequest, UserError

D = 32
FACTORIES = ['Flat', 'IVF16_HNSW32,SQ8', 'RR32,IVF16_HNSW32,RaBitQ4,Refine(SQ8)', 'HNSW16,SQ8']
TWINS = (7, 44, 45, 700, 1500, 1999)  # FAISS does not see them in this order.
WORDS = [f'{a}{b}' for a in ('lun', 'kor', 'mip', 'tas', 'rel') for b in ('a', 'o', 'en', 'ik')]


def _documents(count):
  rng = np.random.default_rng(0)
  for i in range(count):
    title = 'twin' if i in TWINS else f'page {i}'
    text = 'the same words' if i in TWINS else ' '.join(rng.choice(WORDS, 6))
    yield Document(f'd{i}', title, text)


def _write_store(folder, count):
  folder.mkdir(parents=True)
  with store.Writer(folder) as writer:
    for document in _documents(count):
      writer.add(document)
    writer.commit()


def _make(root, count=2000, encoder=None, **options):
  """An index folder under `root`; returns (folder, what is said of its dense part)."""
  folder = root / 'index'
  if not folder.exists():
    _write_store(folder, count)
  chosen = dense.DenseOptions(**{'memory': 2**30, 'encoder': encoder or WordEncoder(D), **options})
  part = dense.build(folder, chosen, 'hash', Progress())
  index_folder.write_info(folder, {'documents': count, 'corpus': {}, 'dense': part})
  return folder, part


@pytest.fixture(scope='module', params=FACTORIES)
def folder(request, tmp_path_factory):
  return _make(tmp_path_factory.mktemp('dense'), factory=request.param)[0]


def _open(folder, **settings):
  return backend.open(config.Retrieval(backend='dense', index=str(folder), **settings))


def _request(*queries, top_k=3, embeddings='encode'):
  if isinstance(embeddings, str):
    embeddings = WordEncoder(D).encode(queries, 'query')
  return SearchRequest('0.0.0', 0, 0, queries, top_k, 'q', 0.0, 1, embeddings)


def _queries(count=64):
  return [f'page {i} {WORDS[i % 20]} {WORDS[i * 7 % 20]}' for i in range(count)]


def _ids(result):
  return [[document.id for document in found] for found in result.documents]


# --- Answers --------------------------------------------------------------------------------------


def test_the_nearest_documents_come_first(folder):
  encoder = WordEncoder(D)
  texts = [f'{d.title}\n{d.text}' for d in _documents(2000)]
  scores = encoder.encode(_queries(), 'query') @ encoder.encode(texts, 'passage').T
  right = [{f'd{i}' for i in row} for row in np.argsort(-scores)[:, :3]]
  [result] = _open(folder).search([_request(*_queries())])
  assert result.outcome is Outcome.OK
  hits = sum(len(set(ids) & wanted) for ids, wanted in zip(_ids(result), right, strict=True))
  assert hits >= 0.9 * 3 * len(right)
  for found, row in zip(result.documents, scores, strict=True):
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for document in found:
      assert document.score == pytest.approx(row[int(document.id[1:])], abs=0.02)
      assert document.title == f'page {document.id[1:]}' or document.title == 'twin'


def test_company_does_not_change_an_answer(folder):
  opened = _open(folder)
  requests = [_request(query, top_k=1 + i % 3) for i, query in enumerate(_queries())]
  together = opened.search(requests)
  assert together == [opened.search([request])[0] for request in requests]
  assert together == _open(folder).search(requests[::-1])[::-1]


@pytest.mark.parametrize('top_k', [1, 2, 4, 6, 9])
def test_ties_go_by_corpus_order(folder, top_k):
  [result] = _open(folder, probes=16).search([_request('twin the same words', top_k=top_k)])
  assert _ids(result)[0][:6] == [f'd{i}' for i in TWINS][:top_k]
  assert len(result.documents[0]) == top_k


def test_exact_search_tells_apart_what_float32_does_not(tmp_path):
  """All scores are 1 in its last bits, wherever the best document is."""
  table = np.zeros((500, D), np.float32)
  table[:, 0] = 1.0
  table[:200, 1] = 1e-9 * np.arange(200)
  index = faiss.IndexFlatIP(D)
  index.add(table)
  faiss.write_index(index, str(tmp_path / 'index'))
  query = np.zeros((1, D), np.float32)
  query[0, :2] = 1.0
  [hits] = faiss_index.Index(tmp_path / 'index').search(query, 3)
  assert [row for row, _ in hits] == [199, 198, 197]


def test_a_missing_neighbour_is_no_document(tmp_path):
  """Of the few lists that are visited not all places can be filled: FAISS says -1 for those."""
  folder, _ = _make(tmp_path, 100, factory='IVF16_HNSW32,SQ8')
  [some] = _open(folder, probes=1).search([_request('page 7', top_k=90)])
  [every] = _open(folder, probes=16).search([_request('page 7', top_k=300)])
  assert 0 < len(some.documents[0]) < 90
  assert sorted(int(i[1:]) for i in _ids(every)[0]) == list(range(100))


def test_vectors_that_cannot_be_searched_are_an_error_of_their_request_alone(folder):
  nan = np.full((1, D), np.nan, np.float32)
  bad = [
    (_request('a', embeddings=None), 'without vectors'),
    (_request('a', embeddings=nan), 'not finite'),
    (
      _request('a', embeddings=np.ones((2, D), np.float32)),
      r'(2, 32) for queries of shape (1, 32)',
    ),
    (_request('a', embeddings=np.ones((1, 5), np.float32)), '(1, 5)'),
  ]
  fine = _request('page 3')
  results = _open(folder).search([fine, *(request for request, _ in bad), fine])
  assert results[0] == results[-1] and results[0].outcome is Outcome.OK
  for result, (_, message) in zip(results[1:-1], bad, strict=True):
    assert result.outcome is Outcome.ERROR and message in result.message
  assert _open(folder).search([]) == []


def test_a_search_uses_one_thread_whatever_thread_asks(folder):
  opened, seen = _open(folder), []

  def ask():
    faiss.omp_set_num_threads(2)
    opened.search([_request('page 3')])
    seen.append(faiss.omp_get_max_threads())

  thread = threading.Thread(target=ask)
  thread.start()
  thread.join()
  assert seen == [1]


def test_more_probes_find_more_and_are_part_of_the_identity(tmp_path):
  folder, part = _make(tmp_path, factory='IVF16_HNSW32,SQ8')
  requests = [_request(*_queries())]
  every, one = _open(folder, probes=16), _open(folder, probes=1)
  assert every.search(requests) != one.search(requests)
  assert len({every.identity, one.identity}) == 2
  tuned = _open(folder, probes=part['search']['nprobe'])
  assert _open(folder).identity == tuned.identity
  assert index_folder.read_info(folder)['build'] in tuned.identity


# --- Building -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'factory',
  ['IVF32_HNSW32,SQ8', 'IVF32,Flat', 'RR32,IVF1_HNSW32,RaBitQ2,Refine(SQ8)', 'IVF4096_HNSW32,SQ8'],
)
def test_the_file_is_what_faiss_writes(tmp_path, factory):
  """Byte for byte, with lists that are empty, and codes that are sorted in several passes."""
  table = np.random.default_rng(0).normal(size=(5000, D)).astype(np.float32)
  table[:, 1:] *= 0.01 if factory == 'IVF32,Flat' else 1.0  # Then most lists stay empty.
  np.save(tmp_path / 'v.npy', table)
  _write_store(tmp_path / 'index', 5000)
  memory = 3_000_000 if factory.startswith('IVF4096') else 1_000_000
  given = {'memory': memory, 'embeddings': str(tmp_path / 'v.npy')}
  folder, _ = _make(tmp_path, 5000, **given, factory=factory)
  trained = faiss.read_index(str(tmp_path / 'dense' / 'trained.faiss'))
  assert lists.suits(trained)
  trained.add(table)
  expected = faiss.serialize_index(trained).tobytes()
  assert (folder / 'dense' / 'index.faiss').read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  'factory, marks',
  [
    (
      'IVF64_HNSW32,SQ8',
      ['dense/vectors/jaxsearch.json', 'dense/trained.faiss', 'dense/added.json'],
    ),
    (
      'HNSW16,SQ8',
      [
        'dense/vectors/.zarray',
        'dense/vectors/jaxsearch.json',
        'dense/whole.faiss',
        faiss_index.FILE,
      ],
    ),
  ],
)
def test_a_killed_build_goes_on_to_the_same_index(tmp_path, monkeypatch, factory, marks):
  """It is killed as soon as each of the files is there."""
  monkeypatch.setattr(vectors, '_BLOCK_BYTES', dense_worker.BLOCK_BYTES)
  for name in ('whole', 'killed'):
    _write_store(tmp_path / name / 'index', 9000)
  right = dense_worker.build(tmp_path / 'whole' / 'index', factory)
  folder = tmp_path / 'killed' / 'index'
  for mark in marks:
    process = _start(folder, factory)
    while not list(folder.parent.glob(f'**/{mark}')):
      assert process.poll() is None
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  process = _start(folder, factory)
  assert process.wait() == 0
  assert json.loads((folder / 'made.json').read_text()) == json.loads(json.dumps(right))
  made = [tmp_path / name / 'index' / faiss_index.FILE for name in ('whole', 'killed')]
  assert made[0].read_bytes() == made[1].read_bytes()


def _start(folder, factory):
  worker = pathlib.Path(dense_worker.__file__)
  path = os.pathsep.join([str(worker.parent), *sys.path])
  return subprocess.Popen(
    [sys.executable, worker, folder, factory], env={**os.environ, 'PYTHONPATH': path}
  )


def test_another_factory_takes_the_vectors_that_are_there(tmp_path):
  encoder = WordEncoder(D)
  folder, first = _make(tmp_path, encoder=encoder, factory='SQ8')
  encoder.encode = lambda texts, kind: (
    WordEncoder(D).encode(texts, kind) if kind == 'query' else 1 / 0
  )
  again, second = _make(tmp_path, encoder=encoder, factory='IVF16_HNSW32,SQ8')
  assert first['factory'] == 'SQ8' and second['factory'] == 'IVF16_HNSW32,SQ8'
  assert isinstance(faiss.read_index(str(again / faiss_index.FILE)), faiss.IndexIVF)


def test_an_index_that_was_linked_is_not_taken_for_one_that_was_made(tmp_path):
  _faiss_file(tmp_path / 'theirs.index')
  _make(tmp_path, 300, factory='SQ8')
  _make(tmp_path, 300, faiss=str(tmp_path / 'theirs.index'))
  folder, _ = _make(tmp_path, 300, factory='SQ8')
  assert not (folder / faiss_index.FILE).is_symlink()
  faiss.read_index(str(tmp_path / 'theirs.index'))


def test_recall_is_measured_against_exact_search_and_reached(tmp_path):
  _, flat = _make(tmp_path / 'a', factory='Flat')
  assert flat['recall']['at'] == {'1': 1.0, '3': 1.0, '10': 1.0} and flat['search'] == {}
  assert flat['recall']['of'] == 'titles of documents' and flat['recall']['queries'] == 1000
  folder, part = _make(tmp_path / 'b', factory='IVF64_HNSW32,Flat')
  assert part['recall']['at']['3'] >= part['recall']['target'] == 0.97
  texts = [f'{d.title}\n{d.text}' for d in _documents(2000)]
  asked = WordEncoder(D).encode([d.title for d in _documents(2000)], 'query')
  right = np.argsort(-asked @ WordEncoder(D).encode(texts, 'passage').T, kind='stable')[:, :3]
  probes = part['search']['nprobe']
  found = {
    some: _recall(faiss_index.Index(folder / faiss_index.FILE, {'nprobe': some}), asked, right)
    for some in (probes // 2, probes)
  }
  assert found[probes // 2] < 0.97 < found[probes] + 0.01
  assert found[probes] == pytest.approx(part['recall']['at']['3'], abs=0.01)


def _recall(index, asked, right):
  found = index.search(asked, right.shape[1])
  return np.mean([len({row for row, _ in some} & {*true}) for some, true in zip(found, right)]) / 3


def test_what_the_manifest_says(tmp_path):
  encoder = WordEncoder(D)
  _, part = _make(tmp_path, 200, encoder=encoder, folder='some/encoder')
  assert part['encoder'] == encoder.identity and part['dimensions'] == D
  assert part['encoder_folder'] == os.path.abspath('some/encoder')
  assert part['factory'] == 'Flat' and 'few' in part['reason']
  assert set(part['versions']) == {'faiss-cpu', 'numpy', 'tensorstore'}


# --- What exists already --------------------------------------------------------------------------


def _faiss_file(path, count=300, factory='IVF8,SQ8', metric=faiss.METRIC_INNER_PRODUCT):
  table = WordEncoder(D).encode([f'{d.title}\n{d.text}' for d in _documents(count)], 'passage')
  index = faiss.index_factory(D, factory, metric)
  index.train(table)
  index.add(table)
  faiss.write_index(index, str(path))


def test_an_index_of_others_is_linked_and_searched(tmp_path):
  _faiss_file(tmp_path / 'theirs.index')
  folder, part = _make(tmp_path, 300, encoder=WordEncoder(D), faiss=str(tmp_path / 'theirs.index'))
  link = folder / faiss_index.FILE
  assert link.is_symlink() and link.samefile(tmp_path / 'theirs.index')
  assert part['search'] == {'nprobe': 64}  # And not the one list that its file says.
  assert part['recall'] is None and part['adopted'] == str(tmp_path / 'theirs.index')
  passage = WordEncoder(D).encode([f'{d.title}\n{d.text}' for d in _documents(44)][43:], 'passage')
  [result] = _open(folder).search([_request('x', embeddings=passage)])
  assert _ids(result)[0][0] == 'd43'


def test_an_index_of_others_with_its_vectors_is_tuned(tmp_path):
  _faiss_file(tmp_path / 'theirs.index')
  texts = [f'{d.title}\n{d.text}' for d in _documents(300)]
  WordEncoder(D).encode(texts, 'passage').tofile(tmp_path / 'theirs.bin')
  given = {name: str(tmp_path / f'theirs.{end}') for name, end in (('faiss', 'index'),)}
  _, part = _make(tmp_path, 300, **given, embeddings=str(tmp_path / 'theirs.bin'))
  assert part['recall']['at']['3'] >= 0.9


def test_an_index_that_does_not_belong_is_refused(tmp_path):
  kinds = {
    'many': ({'count': 301}, '301 vectors.*300 documents'),
    'far': ({'metric': faiss.METRIC_L2}, 'inner'),
    'ids': ({'factory': 'IDMap,Flat'}, 'IDMap'),
  }
  for name, (made, message) in kinds.items():
    path = tmp_path / f'{name}.index'
    if name == 'ids':
      index = faiss.index_factory(D, 'IDMap,Flat', faiss.METRIC_INNER_PRODUCT)
      index.add_with_ids(np.ones((300, D), np.float32), np.arange(300))
      faiss.write_index(index, str(path))
    else:
      _faiss_file(path, **made)
    with pytest.raises(UserError, match=message):
      _make(tmp_path / name, 300, faiss=str(path))
  _faiss_file(tmp_path / 'fine.index')
  with pytest.raises(UserError, match='32 dimensions.*encoder makes 8'):
    _make(tmp_path / 'd', 300, encoder=WordEncoder(8), faiss=str(tmp_path / 'fine.index'))
  (tmp_path / 'torn.index').write_bytes((tmp_path / 'fine.index').read_bytes()[:999])
  with pytest.raises(UserError, match='FAISS cannot read'):
    _make(tmp_path / 't', 300, faiss=str(tmp_path / 'torn.index'))
  with pytest.raises(UserError, match='--faiss is'):
    _make(tmp_path / 'n', 300, faiss=str(tmp_path / 'none.index'))


def test_a_factory_that_does_not_fit_is_refused(tmp_path):
  with pytest.raises(UserError, match='--factory=HNSW32,Flat keeps .* more than --memory=97.7 KiB'):
    _make(tmp_path, factory='HNSW32,Flat', memory=100_000)


def test_a_damaged_index_is_refused(tmp_path):
  folder, part = _make(tmp_path, 200)
  index_folder.write_info(folder, {'documents': 201, 'corpus': {}, 'dense': part})
  with pytest.raises(UserError, match='200 vectors .* 201'):
    _open(folder)
  index_folder.write_info(folder, {'documents': 200, 'corpus': {}, 'dense': part})
  with (folder / faiss_index.FILE).open('r+b') as file:
    file.truncate(part['bytes'] - 4)
  with pytest.raises(UserError, match=r'has 25,641 bytes instead of 25,645'):
    _open(folder)
  index_folder.write_info(folder, {'documents': 200, 'corpus': {}})
  with pytest.raises(UserError, match='not dense'):
    _open(folder)


def test_queries_without_a_known_encoder_are_refused(tmp_path):
  folder, part = _make(tmp_path, 200)
  assert part['encoder_folder'] == ''
  with pytest.raises(UserError, match='retrieval.encoder'):
    backend.open_encoder(config.Retrieval(index=str(folder)))
