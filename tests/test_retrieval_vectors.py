"""Where the vectors of a corpus come from: encoded, or made by somebody else."""

import json

import numpy as np
import pytest
from vectors_of_words import WordEncoder

from jaxsearch.retrieval import store
from jaxsearch.retrieval.indexing import embedding, vectors
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import Document, UserError

N, D = 9000, 16  # Three chunks.


@pytest.fixture(scope='module')
def documents(tmp_path_factory):
  folder = tmp_path_factory.mktemp('store')
  with store.Writer(folder) as writer:
    for i in range(N):
      writer.add(Document(f'd{i}', f'Title {i % 7}' if i % 3 else '', f'text number {i}'))
    writer.commit()
  return store.Store(folder)


@pytest.fixture(scope='module')
def table():
  return np.random.default_rng(0).normal(size=(N, D)).astype(np.float16)


class Killed(Exception):
  pass


class Counting(WordEncoder):
  """Counts what it encodes, and stops after some calls."""

  def __init__(self, calls=100, name='words'):
    super().__init__(D, name)
    self.calls, self.texts = calls, []

  def encode(self, texts, kind):
    if not self.calls:
      raise Killed
    self.calls -= 1
    self.texts += texts
    return super().encode(texts, kind)


def _embed(place, documents, encoder, corpus='c'):
  return embedding.embed(str(place), documents, encoder, corpus, Progress())


def test_all_documents_are_encoded_as_passages(tmp_path, documents):
  encoder = Counting()
  found = _embed(tmp_path / 'v', documents, encoder)
  assert encoder.texts[:2] == ['text number 0', 'Title 1\ntext number 1']
  right = WordEncoder(D).encode(encoder.texts, 'passage')
  assert (found.documents, found.dimensions) == (N, D)
  np.testing.assert_allclose(found.rows(slice(0, N)), right, atol=1e-3)


def test_an_interrupted_encoding_goes_on_where_it_was(tmp_path, documents):
  first, second = Counting(calls=2), Counting()
  with pytest.raises(Killed):
    _embed(tmp_path / 'v', documents, first)
  assert embedding.begun(str(tmp_path / 'v'))['rows'] == len(first.texts)
  resumed = _embed(tmp_path / 'v', documents, second)
  assert len(first.texts) + len(second.texts) == N
  whole = _embed(tmp_path / 'w', documents, Counting())
  np.testing.assert_array_equal(resumed.rows(slice(0, N)), whole.rows(slice(0, N)))
  third = Counting()
  _embed(tmp_path / 'v', documents, third)
  assert not third.texts


def test_vectors_of_something_else_are_not_continued(tmp_path, documents):
  _embed(tmp_path / 'v', documents, Counting())
  with pytest.raises(UserError, match="another encoder: .*'words'.* instead of .*'others'"):
    _embed(tmp_path / 'v', documents, Counting(name='others'))
  with pytest.raises(UserError, match="another corpus: 'c' instead of 'e'"):
    _embed(tmp_path / 'v', documents, Counting(), corpus='e')


def test_what_float16_cannot_hold_is_refused_with_its_document(tmp_path, documents):
  class Loud(WordEncoder):
    def encode(self, texts, kind):
      found = super().encode(texts, kind)
      found[5] *= 1e6
      return found

  with pytest.raises(UserError, match=r"document 'd5'.*row 5"):
    _embed(tmp_path / 'v', documents, Loud(D))


@pytest.mark.parametrize('dtype', ['f2', 'f4'])
@pytest.mark.parametrize('suffix', ['npy', 'bin'])
def test_files_of_others_are_taken_as_they_are(tmp_path, table, dtype, suffix):
  path = tmp_path / f'v.{suffix}'
  array = table.astype(dtype)
  np.save(path, array) if suffix == 'npy' else array.tofile(path)
  found = vectors.adopt(str(path), N, D)
  np.testing.assert_array_equal(found.rows(slice(3, 8)), table[3:8])
  np.testing.assert_array_equal(found.rows(np.array([1, 8000])), table[[1, 8000]])
  assert found.rows(slice(0, 1)).dtype == np.float32
  blocks = list(found.blocks())
  np.testing.assert_array_equal(np.concatenate(blocks), table)


def test_a_zarr_array_of_others_is_taken_as_it_is(tmp_path, documents, table):
  place = str(tmp_path / 'v')
  made = vectors.open_zarr(place, create=True, dtype='float32', shape=[N, D])
  made.write(table.astype(np.float32)).result()
  np.testing.assert_array_equal(vectors.adopt(place, N, None).rows(slice(0, N)), table)
  assert embedding.begun(place) is None and vectors.exists(place)
  assert not vectors.exists(str(tmp_path))


def test_another_shape_is_refused_with_both_values(tmp_path, table):
  np.save(tmp_path / 'v.npy', table)
  table.tofile(tmp_path / 'v.bin')
  np.save(tmp_path / 'flat.npy', table.ravel())
  np.save(tmp_path / 'whole.npy', np.zeros((N, D), np.int32))
  cases = [
    ('v.npy', N + 1, D, '9,000 vectors.*9,001 documents'),
    ('v.npy', N, 32, '16 dimensions.*encoder makes 32'),
    ('v.bin', N, 32, '288,000 bytes.*576,000 in float16 or 1,152,000 in float32'),
    ('v.bin', N, None, 'bare array.*--encoder'),
    ('flat.npy', N, D, '1 axes'),
    ('whole.npy', N, D, 'int32'),
    ('none.npy', N, D, '--embeddings is'),
  ]
  for name, documents, dimensions, message in cases:
    with pytest.raises(UserError, match=message):
      vectors.adopt(str(tmp_path / name), documents, dimensions)


def test_a_row_that_is_no_number_is_named(tmp_path, table):
  broken = table.copy()
  broken[4321, 3] = np.nan
  np.save(tmp_path / 'v.npy', broken)
  found = vectors.adopt(str(tmp_path / 'v.npy'), N, D)
  for which in (slice(4000, 5000), np.array([7, 4321])):
    with pytest.raises(UserError, match='row 4321 '):
      found.rows(which)


def test_the_note_beside_the_array_says_what_it_holds(tmp_path, documents):
  _embed(tmp_path / 'v', documents, Counting())
  note = json.loads((tmp_path / 'v' / 'jaxsearch.json').read_text())
  assert note['rows'] == note['documents'] == N and note['encoder']['name'] == 'words'
