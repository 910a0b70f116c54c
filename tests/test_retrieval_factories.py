"""The choice of an index by size and memory."""

import faiss
import numpy as np
import pytest

from jaxsearch.retrieval.indexing import factories
from jaxsearch.types import UserError

GIB = 2**30
WIKIPEDIA = 21_015_324


@pytest.mark.parametrize(
  'documents, dimensions, memory, factory',
  [
    (1, 384, GIB, 'Flat'),
    (50_000, 768, GIB, 'Flat'),
    (50_001, 768, GIB, 'RR768,IVF1024_HNSW32,RaBitQ2,Refine(SQ8)'),
    (50_000, 768, 2**26, 'RR768,IVF1024_HNSW32,RaBitQ2,Refine(SQ8)'),
    (50_000, 768, 45 * 2**20, 'IVF1024_HNSW32,SQ8'),
    (1_000_000, 768, 2 * GIB, 'RR768,IVF8192_HNSW32,RaBitQ2,Refine(SQ8)'),
    (WIKIPEDIA, 768, 24 * GIB, 'RR768,IVF65536_HNSW32,RaBitQ2,Refine(SQ8)'),
    (WIKIPEDIA, 768, 16 * GIB, 'IVF65536_HNSW32,SQ8'),
    (WIKIPEDIA, 384, 8 * GIB, 'IVF65536_HNSW32,SQ8'),
    (WIKIPEDIA, 768, 8 * GIB, 'RR768,IVF65536_HNSW32,RaBitQ2,Refine(SQ8)'),
    (WIKIPEDIA, 768, 3 * GIB, 'RR768,IVF65536_HNSW32,RaBitQ,Refine(SQ8)'),
  ],
)
def test_the_best_index_that_fits_is_chosen(documents, dimensions, memory, factory):
  plan = factories.choose(documents, dimensions, memory)
  assert plan.factory == factory
  assert plan.resident <= memory and plan.resident <= plan.disk
  assert plan.sample <= documents and plan.sample * dimensions * 4 <= memory / 4
  assert str(f'{documents:,}') in plan.reason


def test_the_smallest_budget_that_would_do_is_named_and_does():
  with pytest.raises(UserError, match=r'--memory=2\.0 GiB.*--memory=(\d+)MiB') as error:
    factories.choose(WIKIPEDIA, 768, 2 * GIB)
  least = int(str(error.value).rsplit('--memory=', 1)[1].split('MiB')[0])
  assert factories.choose(WIKIPEDIA, 768, least * 2**20).resident <= least * 2**20
  with pytest.raises(UserError):
    factories.choose(WIKIPEDIA, 768, (least - 1) * 2**20)


@pytest.mark.parametrize('factory', ['IVF16,klingon', 'IVF16,PQ7', '', 'Flat,Flat,Flat'])
def test_what_faiss_does_not_know_is_refused(factory):
  with pytest.raises(UserError, match='--factory is'):
    factories.described(factory, 1000, 64, '')


@pytest.mark.parametrize(
  'factory',
  [
    'Flat',
    'SQ8',
    'IVF32,SQ8',
    'IVF32_HNSW32,SQ8',
    'RR64,IVF32_HNSW32,RaBitQ4,Refine(SQ8)',
    'HNSW32,SQ8',
  ],
)
def test_bytes_are_those_of_the_file(factory):
  """To 1 %, and 20 KB of heads and of what the codes share."""
  documents, dimensions = 10_000, 64
  x = np.random.default_rng(0).normal(size=(documents, dimensions)).astype(np.float32)
  index = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
  index.train(x)
  index.add(x)
  plan = factories.described(factory, documents, dimensions, '')
  assert plan.disk == pytest.approx(len(faiss.serialize_index(index)), rel=0.01, abs=20_000)
  fine = documents * dimensions if 'Refine' in factory else 0
  assert plan.disk - plan.resident == fine
