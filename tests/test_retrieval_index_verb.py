"""`jaxsearch index` with vectors, and the retriever that opens what it made."""

import json
import re

import encoders
import numpy as np
import pytest
import tiny

from jaxsearch import cli, config
from jaxsearch.encoding import text_encoder
from jaxsearch.retrieval import index_folder
from jaxsearch.retrieval.backends import bm25, dense
from jaxsearch.types import Outcome, SearchRequest, UserError

COUNT = 60


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('verb')
  rng = np.random.default_rng(0)
  lines = [
    {
      'id': f'd{i}',
      'title': ' '.join(rng.choice(tiny.WORDS, 2)),
      'text': str(rng.choice(tiny.WORDS)),
    }
    for i in range(COUNT)
  ]
  (root / 'corpus.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  for name, pooling in (('encoder', 'mean'), ('other', 'cls')):
    (root / name).mkdir()
    encoders.write(root / name)
    encoders.sentences(root / name, pooling, prompts={'query': 'what lies near ', 'document': ''})
  np.save(root / 'vectors.npy', rng.normal(size=(COUNT, 8)).astype(np.float16))
  return root


def _index(root, out, *flags):
  return cli.main(['index', f'--corpus={root}/corpus.jsonl', f'--out={out}', *flags])


def test_words_and_vectors_of_one_corpus(root, tmp_path, capsys):
  assert _index(root, tmp_path / 'i', f'--encoder={root}/encoder', '--memory=1.5 GB') == 0
  assert (
    'dense: Flat (exact: 60 documents are few); exact; recall 1.000 at 1' in capsys.readouterr().out
  )
  settings = config.Retrieval(index=str(tmp_path / 'i'))
  info = index_folder.read_info(tmp_path / 'i')
  identity = info['dense']['encoder']
  assert identity['pooling'] == 'mean' and identity['query_prefix'] == 'what lies near '
  queries = dense.open_encoder(settings)
  store = dense.open(settings)._store
  title = store.document(7).title
  vectors = queries.encode([title])
  np.testing.assert_array_equal(
    vectors, text_encoder.open(str(root / 'encoder')).encode([title], 'query')
  )
  request = SearchRequest('', 0, 0, (title,), 3, '', 0.0, 0, vectors)
  [found] = dense.open(settings).search([request])
  texts = [f'{d.title}\n{d.text}' for d in map(store.document, range(COUNT))]
  scores = text_encoder.open(str(root / 'encoder')).encode(texts, 'passage') @ vectors[0]
  best = np.argsort(-scores, kind='stable')[:3]
  assert found.outcome is Outcome.OK
  np.testing.assert_allclose([d.score for d in found.documents[0]], scores[best], atol=2e-3)
  assert bm25.open(settings).search([request])[0].outcome is Outcome.OK


def test_queries_are_encoded_as_the_documents_were_or_not_at_all(root, tmp_path):
  assert _index(root, tmp_path / 'i', f'--encoder={root}/encoder', '--parts=dense') == 0
  settings = config.Retrieval(index=str(tmp_path / 'i'), encoder=str(root / 'other'))
  with pytest.raises(UserError, match="pooling: 'cls' instead of 'mean'"):
    dense.open_encoder(settings)
  with pytest.raises(UserError, match='not bm25'):
    bm25.open(settings)


def test_vectors_of_others_name_no_encoder(root, tmp_path):
  assert _index(root, tmp_path / 'i', f'--embeddings={root}/vectors.npy') == 0
  assert index_folder.read_info(tmp_path / 'i')['dense']['encoder'] is None
  settings = config.Retrieval(index=str(tmp_path / 'i'), encoder=str(root / 'other'))
  with pytest.raises(UserError, match='dimensions: 48 instead of 8'):
    dense.open_encoder(settings)


def test_a_place_for_vectors_keeps_them_for_the_next_index(root, tmp_path):
  flags = [f'--encoder={root}/encoder', f'--embeddings={tmp_path}/v', '--parts=dense']
  assert _index(root, tmp_path / 'i', *flags) == 0
  assert (tmp_path / 'v' / 'jaxsearch.json').exists()
  assert _index(root, tmp_path / 'j', *flags[1:], '--factory=SQ8') == 0
  made, again = (index_folder.read_info(tmp_path / name)['dense'] for name in 'ij')
  assert again['factory'] == 'SQ8' and again['encoder'] == made['encoder'] is not None


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--parts=dense'], 'needs vectors'),
    (['--parts=bm25,klingon'], "'klingon'"),
    (['--parts=bm25', '--embeddings={}/vectors.npy'], 'not made'),
    (['--factory=Flat'], 'not made'),
    (['--embeddings={}/vectors.npy', '--memory=16'], "'16'; allowed"),
    (['--embeddings={}/vectors.npy', '--memory=0GiB'], "'0GiB'; allowed"),
    (['--embeddings={}/vectors.npy', '--memory=0.0001MB'], r'Give --memory=\d+MiB'),
    (['--embeddings={}/none.npy'], 'none.npy'),
    (['--embeddings={}/vectors.npy', '--encoder={}/encoder'], '8 dimensions.*encoder makes 48'),
    (['--embeddings={}/vectors.npy', '--factory=klingon'], 'klingon'),
    (['--faiss={}/vectors.npy', '--factory=Flat'], 'both'),
    (['--faiss={}/vectors.npy'], 'FAISS cannot read'),
    (['--encoder={}'], 'config.json'),
  ],
)
def test_what_cannot_be_made_is_told_in_one_paragraph(root, tmp_path, capsys, flags, message):
  assert _index(root, tmp_path / 'i', *(flag.format(root) for flag in flags)) == 2
  told = capsys.readouterr().err
  assert re.search(message, told), told
  assert not (tmp_path / 'i').exists()


def test_an_index_that_finds_too_little_is_warned_of(root, tmp_path, capsys):
  """Four bits for eight numbers are not enough."""
  flags = [f'--embeddings={root}/vectors.npy', '--parts=dense', '--factory=PQ1x4']
  assert _index(root, tmp_path / 'i', *flags) == 0
  told = capsys.readouterr().err
  assert 'less than 0.97' in told and '--factory' in told
