"""The document store and its writer."""

import pytest

from jaxsearch.retrieval import store
from jaxsearch.types import Document, UserError

DOCUMENTS = [
  Document('a', 'Ada', 'Ada was born in Lund.\nShe wrote.'),
  Document('7', '', 'Ůsti — a town.'),
  Document('c', 'Dag', ''),
]


def test_what_was_committed_is_kept_and_the_rest_is_cut_off(tmp_path):
  with store.Writer(tmp_path) as writer:
    for document in DOCUMENTS[:2]:
      writer.add(document)
    writer.commit()
    writer.add(Document('torn', 'by', 'a kill'))
  with store.Writer(tmp_path, 1) as writer:
    for document in DOCUMENTS[1:]:
      writer.add(document)
    writer.commit()
    assert writer.documents == 3
  held = store.Store(tmp_path)
  assert [held.document(i) for i in range(len(held))] == DOCUMENTS
  assert held.document(2, 1.5).score == 1.5


def test_a_store_that_is_not_whole_is_refused(tmp_path):
  with pytest.raises(UserError, match='has no documents'):
    store.Store(tmp_path)
  with store.Writer(tmp_path) as writer:
    writer.add(DOCUMENTS[0])
    writer.commit()
  (tmp_path / 'documents.utf8').write_bytes(b'half')
  with pytest.raises(UserError, match='4 bytes instead of 36'):
    store.Store(tmp_path)
  with pytest.raises(UserError, match='4 bytes instead of 36'):
    store.Writer(tmp_path, 1)
