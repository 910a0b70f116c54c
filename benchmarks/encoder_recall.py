"""Whether an encoder in bfloat16 finds what it finds in float32, on a world of `jaxsearch world`.

  jaxsearch world --out=world
  python benchmarks/encoder_recall.py --folder=ENCODER --world=world/dev

Exact search over all documents. Of each question: the share of its supporting documents among the
first k (those of later hops are not named in it, so recall is far from 1), and how many of the
first k are those that float32 finds.
"""

from __future__ import annotations

import itertools
import json
import pathlib

import numpy as np
from absl import app, flags

from jaxsearch.encoding import text_encoder

_FOLDER = flags.DEFINE_string('folder', None, 'Hugging Face folder of an encoder.', required=True)
_WORLD = flags.DEFINE_string('world', None, 'Folder of corpus and questions.', required=True)
_TOP = flags.DEFINE_list('top', ['1', '3', '10'], 'Documents that count.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')


def main(argv: list[str]) -> None:
  del argv
  corpus, questions = (_lines(f'{name}.jsonl') for name in ('corpus', 'questions'))
  place = {line['id']: i for i, line in enumerate(corpus)}
  wanted = [{place[d] for d in q['metadata']['supporting_documents']} for q in questions]
  documents, queries = {}, {}
  for dtype in ('float32', 'bfloat16'):
    encoder = text_encoder.open(_FOLDER.value, dtype)
    documents[dtype] = encoder.encode([line['contents'] for line in corpus], 'passage')
    queries[dtype] = encoder.encode([line['question'] for line in questions], 'query')
  reference, found = None, []
  for of_documents, of_queries in itertools.product(documents, queries):
    scores = queries[of_queries] @ documents[of_documents].T
    ranked = np.argsort(-scores, axis=1, kind='stable')
    reference = ranked if reference is None else reference
    for k in map(int, _TOP.value):
      recall = np.mean([len(w & set(r[:k])) / len(w) for w, r in zip(wanted, ranked)])
      same = np.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(reference, ranked)])
      found.append({'documents': of_documents, 'queries': of_queries, 'k': k})
      found[-1] |= {'recall': recall, 'same': same}
      print(
        f'documents {of_documents:<8}, queries {of_queries:<8}, top {k:2}: recall {recall:.4f}, '
        f'{same:.4f} of them as in float32'
      )
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + '\n')


def _lines(name: str) -> list[dict]:
  with open(pathlib.Path(_WORLD.value, name), encoding='utf-8') as file:
    return [json.loads(line) for line in file]


if __name__ == '__main__':
  app.run(main)
