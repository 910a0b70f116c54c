"""An index, made of a corpus file stage by stage.

Every stage streams: its memory does not grow with the corpus, but with the number of different
words. Every stage looks at what is there and goes on from it, so a build that was killed gives the
same index as one that was not, byte for byte.
"""

from __future__ import annotations

import dataclasses
import shutil
import unicodedata
from typing import Any

from jaxsearch.retrieval import _lexical, index_folder
from jaxsearch.retrieval import corpus as corpora
from jaxsearch.retrieval.indexing import dense as dense_lib
from jaxsearch.retrieval.indexing import documents, postings, words
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import UserError


@dataclasses.dataclass(frozen=True)
class Bm25Options:
  """How words are made, and what is in memory at a time.

  Attributes:
    stemmer: Snowball language, or '' for none.
    chunk: documents between two commits; changes no result.
    postings: that are sorted at a time, 24 bytes each; changes no result.
  """

  stemmer: str = 'english'
  chunk: int = 1 << 15
  postings: int = 1 << 24


def build(
  corpus: str,
  out: str,
  *,
  bm25: Bm25Options | None = Bm25Options(),
  dense: dense_lib.DenseOptions | None = None,
  show: Progress | None = None,
) -> dict[str, Any]:
  """Indexes the corpus file `corpus` into the folder `out`; returns what `index.json` says.

  A build of the same that was killed is gone on with.

  Args:
    corpus: JSON lines of documents, plain or compressed.
    out: folder to write; an index that is there already is replaced.
    bm25: how to index words; None: not at all.
    dense: how to index vectors; None: not at all.
    show: where progress is shown; standard error by default.

  Raises:
    UserError: if the corpus is broken, `out` cannot be written or there is no such stemmer, or as
      `dense.build`.
  """
  show = show or Progress()
  file = corpora.Corpus(corpus)
  inputs: dict[str, Any] = {'corpus': file.inputs}
  if bm25:
    words_of = _lexical.word_function(bm25.stemmer)
    inputs['bm25'] = {
      'tokenizer': {'stemmer': bm25.stemmer, 'unicode': unicodedata.unidata_version},
      'parameters': postings.PARAMETERS,
      'versions': _lexical.versions(bm25.stemmer),
    }
  if dense:
    inputs['dense'] = dense.inputs
  with index_folder.drafting(out, inputs) as folder:
    try:
      count, digest = documents.write(
        file, folder, chunk=bm25.chunk if bm25 else Bm25Options.chunk, show=show
      )
    except UserError:
      shutil.rmtree(folder.parent)  # When it is mended it is another corpus, with another draft.
      raise
    described = {'sha256': digest, 'bytes': file.inputs['bytes'], 'file': file.path.name}
    info = {'documents': count, 'corpus': described}
    if bm25:
      words.write(folder, words_of, chunk=bm25.chunk, show=show)
      sizes = postings.write(folder, postings=bm25.postings, show=show)
      info['bm25'] = {**inputs['bm25'], **sizes}
    if dense:
      info['dense'] = dense_lib.build(folder, dense, digest, show)
    return index_folder.write_info(folder, info)
