"""Searches that pass several stages: queries encoded, documents found, fused and reranked."""

import dataclasses
import json
import time

import encoders
import numpy as np
import psutil
import pytest

from jaxsearch import config
from jaxsearch.encoding import cross_encoder, text_encoder
from jaxsearch.retrieval import index_folder, store
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.backends import bm25, dense, hybrid
from jaxsearch.retrieval.indexing import build
from jaxsearch.retrieval.indexing import dense as indexing
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import Document, Outcome, SearchRequest, UserError

WORDS = encoders.WORDS[4:]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Folders of an index with both parts, of its encoder and of a reranker."""
  root = tmp_path_factory.mktemp('stages')
  for name, head in (('encoder', 'Model'), ('reranker', 'ForSequenceClassification')):
    (root / name).mkdir()
    encoders.write(root / name, head=head)
  rng = np.random.default_rng(0)
  with (root / 'corpus.jsonl').open('w') as file:
    for i in range(40):
      text = f'{WORDS[i % len(WORDS)]}\nThe {" ".join(rng.choice(WORDS, 5))}.'
      file.write(json.dumps({'id': f'd{i}', 'contents': text}) + '\n')
  build.build(str(root / 'corpus.jsonl'), str(root / 'index'))
  encoder = text_encoder.open(str(root / 'encoder'))
  options = indexing.DenseOptions(2**30, encoder, str(root / 'encoder'))
  info = index_folder.read_info(root / 'index')
  part = indexing.build(root / 'index', options, info['corpus']['sha256'], Progress())
  del info['format'], info['build']
  index_folder.write_info(root / 'index', {**info, 'dense': part})
  return root


def _settings(made, backend, **options):
  return config.Retrieval(backend=backend, index=str(made / 'index'), **options)


def _requests(count=20, top_k=3):
  rng = np.random.default_rng(1)
  texts = [' '.join(rng.choice(WORDS, 1 + i % 4)) for i in range(count)]
  return [
    SearchRequest(f'0.{i}.0', 0, 0, (text, text[::-1])[: 1 + i % 2], top_k, 'q', 0.0, i)
    for i, text in enumerate(texts)
  ]


def _ask(pool, requests):
  for request in requests:
    pool.submit(request)
  answers = {}
  while pool.pending:
    answers |= {r.trajectory: a for r, a in pool.poll(1.0)}
  return [dataclasses.replace(answers[r.trajectory], latency_s=0.0) for r in requests]


def _embedded(made, requests):
  """The requests with vectors, made one by one in this process."""
  encoder = dense.open_encoder(_settings(made, 'dense'))
  return [dataclasses.replace(r, embeddings=encoder.encode(r.queries)) for r in requests]


def _processes(stage_of):
  """Workers of this process, of which JAX is loaded in those that run a model."""
  alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
  workers = [p for p in alive if 'pooling.worker' in ' '.join(p.cmdline())]
  with_jax = [p for p in workers if any('jaxlib' in m.path for m in p.memory_maps())]
  return with_jax if stage_of == 'model' else [p for p in workers if p not in with_jax]


def test_a_dense_search_is_encoded_in_one_process_and_answered_by_another(made):
  requests = _requests()
  expected = dense.open(_settings(made, 'dense')).search(_embedded(made, requests))
  with pools.Pool(_settings(made, 'dense', workers=2)) as pool:
    assert pool.ready() == {'encode': 1, 'search': 2}
    assert len(_processes('model')) == 1 and len(_processes('search')) == 2
    found = _ask(pool, requests)
    metrics = pool.stats()
  for a, b in zip(found, expected, strict=True):
    assert a.outcome is b.outcome is Outcome.OK
    for ours, right in zip(a.documents, b.documents, strict=True):
      assert [d.id for d in ours] == [d.id for d in right]
      np.testing.assert_allclose([d.score for d in ours], [d.score for d in right], atol=1e-5)
  for stage in ('queue', 'encode', 'search'):
    assert metrics[f'search/{stage}_s/p95'] > 0


def test_an_encoder_that_is_killed_is_replaced_and_loses_nothing(made):
  requests = _requests(60)
  with pools.Pool(_settings(made, 'dense', cache_queries=0, deadline_s=60.0)) as pool:
    for request in requests[:30]:
      pool.submit(request)
    [encoder] = _processes('model')
    encoder.kill()
    time.sleep(0.2)
    for request in requests[30:]:
      pool.submit(request)
    answers = []
    while pool.pending:
      answers += pool.poll(1.0)
    metrics = pool.stats()
  assert {result.outcome for _, result in answers} == {Outcome.OK} and len(answers) == 60
  assert metrics['search/worker_restarts'] == 1


def test_hybrid_search_fuses_both_lists_by_rank(made):
  requests = _requests()
  settings = _settings(made, 'hybrid', candidates=10)
  wide = [dataclasses.replace(r, top_k=10) for r in _embedded(made, requests)]
  lists = [part.open(settings).search(wide) for part in (bm25, dense)]
  with pools.Pool(settings) as pool:
    found = _ask(pool, requests)
  for result, *parts in zip(found, *lists, strict=True):
    for ours, *own in zip(result.documents, *(p.documents for p in parts), strict=True):
      scores = {}
      for documents in own:
        for place, document in enumerate(documents):
          scores[document.id] = scores.get(document.id, 0) + 1 / (61 + place)
      assert [d.score for d in ours] == sorted(scores.values(), reverse=True)[:3]
      assert all(scores[d.id] == d.score for d in ours)


def test_fusion_by_hand():
  a, b, c = (Document(name, name, name, 9.0) for name in 'abc')
  fused = hybrid.fuse([[a, b], [c, b]])
  assert [(d.id, d.score) for d in fused] == [('b', 2 / 62), ('a', 1 / 61), ('c', 1 / 61)]
  assert hybrid.fuse([[], []]) == ()


def test_a_cross_encoder_has_the_last_word(made):
  requests = _requests()
  settings = _settings(made, 'bm25', reranker=str(made / 'reranker'), candidates=8)
  wide = bm25.open(settings).search([dataclasses.replace(r, top_k=8) for r in requests])
  scorer = cross_encoder.open(str(made / 'reranker'))
  with pools.Pool(settings) as pool:
    found = _ask(pool, requests)
    assert 'search/rerank_s/p50' in pool.stats()
  for request, result, candidates in zip(requests, found, wide, strict=True):
    for query, ours, documents in zip(
      request.queries, result.documents, candidates.documents, strict=True
    ):
      scores = scorer.scores(query, [f'{d.title}\n{d.text}' for d in documents])
      best = sorted(scores.tolist(), reverse=True)[:3]
      np.testing.assert_allclose([d.score for d in ours], best, atol=1e-5)
      assert {d.id for d in ours} <= {d.id for d in documents}


def test_another_encoder_than_the_index_was_made_with_is_refused(made, tmp_path):
  encoders.write(tmp_path, hidden_size=32)
  with pytest.raises(UserError, match='32 instead of 48'):
    pools.Pool(_settings(made, 'dense', encoder=str(tmp_path)))
  with pytest.raises(UserError, match='nowhere'):
    pools.Pool(_settings(made, 'bm25', reranker=str(tmp_path / 'nowhere')))
  assert len(store.Store(made / 'index')) == 40
