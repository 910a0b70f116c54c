"""Checks on a written world that its questions need search, and that search answers them.

Reads files only, so it audits what training and evaluation will see.
"""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from jaxsearch import config, questions
from jaxsearch.retrieval.backends import bm25
from jaxsearch.retrieval.indexing import build
from jaxsearch.text import tokenizer
from jaxsearch.types import Document, Question, SearchRequest, UserError

CLOSED_BOOK_LIMIT = 0.10
RAW_QUESTION_LIMIT = 0.10
ORACLE_LIMIT = 0.99
_MEASURES = {
  'closed_book_em': 'guessed without search',
  'raw_question': 'found by the question itself',
  'oracle': 'found by the chain',
  'oracle_first': 'by the chain, ranked first',
}


def audit(out: str | Path, *, split: str = 'test', top_k: int = 3) -> dict[str, Any]:
  """Measures the world in `out` on its `split` questions.

  Returns:
    'by_hops': hops -> 'n', 'closed_book_em' (best constant guess per last relation),
      'raw_question' (share whose text alone finds the last supporting document in the best
      `top_k`), 'oracle' (share of which searching each chain subject's name finds its page, with
      the object on it, at every hop), 'oracle_first' (same, page ranked first).
    'tokens': mean and largest numbers of tokens of articles, names and questions.
    'checks': name -> {'value', 'limit', 'passed'}; 'passed': all of them.

  Raises:
    UserError: if the folder holds no such world.
  """
  out = Path(out)
  asked = questions.read(out / split / 'questions.jsonl')
  pages = {name: _pages(out / name / 'corpus.jsonl') for name in ('train', split)}
  guesses = _closed_book(questions.read(out / 'train' / 'questions.jsonl'), asked)
  with tempfile.TemporaryDirectory() as folder:
    build.build(str(out / split / 'corpus.jsonl'), f'{folder}/index')
    searcher = _Searcher(f'{folder}/index', top_k)
    searched = [_search(searcher, question) for question in asked]
  rows = [
    {'closed_book_em': guess, **found} for guess, found in zip(guesses, searched, strict=True)
  ]
  by_hops = {}
  for hops in sorted({question.metadata['hops'] for question in asked}):
    chosen = [row for row, q in zip(rows, asked, strict=True) if q.metadata['hops'] == hops]
    by_hops[hops] = {'n': len(chosen)} | {key: _mean(chosen, key) for key in rows[0]}
  tokens = _tokens(out, pages, asked)
  shared = _names(pages['train']) & _names(pages[split])
  checks = _checks(by_hops, shared=len(shared) if split != 'train' else 0)
  passed = all(check['passed'] for check in checks.values())
  return {'by_hops': by_hops, 'tokens': tokens, 'checks': checks, 'passed': passed}


def show(report: Mapping[str, Any]) -> None:
  """Prints what `audit` returned: a table of the questions by hops and a table of the checks."""
  console = rich.console.Console()
  measures = rich.table.Table(title='share of questions, by number of hops')
  for name in ('hops', 'questions', *_MEASURES.values()):
    measures.add_column(name, justify='right')
  for hops, row in report['by_hops'].items():
    shares = (f'{row[key]:.3f}' for key in _MEASURES)
    measures.add_row(str(hops), str(row['n']), *shares)
  console.print(measures)
  checks = rich.table.Table(title='what the world must keep')
  for name in ('check', 'found', 'allowed', ''):
    checks.add_column(name)
  for name, check in report['checks'].items():
    bound = 'at least' if name == 'oracle' else 'at most'
    verdict = '[green]passed' if check['passed'] else '[red]failed'
    checks.add_row(
      name.replace('_', ' '), f'{check["value"]:g}', f'{bound} {check["limit"]:g}', verdict
    )
  console.print(checks)


class _Searcher:
  def __init__(self, index: str, top_k: int):
    self._backend = bm25.open(config.Retrieval(index=index, top_k=top_k))
    self._top_k = top_k
    self._known: dict[str, tuple[Document, ...]] = {}

  def __call__(self, query: str) -> tuple[Document, ...]:
    if query not in self._known:
      request = SearchRequest('audit', 0, 0, (query,), self._top_k, 'audit', 0.0, 0)
      documents = self._backend.search([request])[0].documents
      self._known[query] = documents[0] if documents else ()
    return self._known[query]


def _search(searcher: _Searcher, question: Question) -> dict[str, float]:
  last = question.metadata['supporting_documents'][-1]
  found, first = True, True
  for link in question.metadata['chain']:
    documents = searcher(link['subject'])
    gold = [d for d in documents if d.id == link['document'] and link['object'] in d.text]
    found = found and bool(gold)
    first = first and bool(gold) and documents[0].id == link['document']
  return {
    'raw_question': float(last in [document.id for document in searcher(question.text)]),
    'oracle': float(found),
    'oracle_first': float(first),
  }


def _closed_book(train: Sequence[Question], asked: Sequence[Question]) -> list[float]:
  """EM of the best constant guess: the commonest answer to the last relation.

  Counted once in the training questions and once in all *other* questions of the audited file,
  which a policy never sees; the better guess counts.
  """
  known = collections.defaultdict(collections.Counter)
  for question in train:
    known[_last_relation(question)].update(question.golden_answers)
  others = collections.defaultdict(collections.Counter)
  for question in asked:
    others[_last_relation(question)].update(question.golden_answers)
  scores = []
  for question in asked:
    answers = set(question.golden_answers)
    seen = known[_last_relation(question)].most_common(1)
    rest = others[_last_relation(question)] - collections.Counter(question.golden_answers)
    guesses = {guess for guess, _ in [*seen, *rest.most_common(1)]}
    scores.append(float(bool(guesses & answers)))
  return scores


def _last_relation(question: Question) -> str:
  return question.metadata['chain'][-1]['relation']


def _tokens(
  out: Path, pages: Mapping[str, Sequence[str]], asked: Sequence[Question]
) -> dict[str, Any]:
  tokens = tokenizer.load(out / 'tokenizer')

  def lengths(texts: Sequence[str]) -> dict[str, float]:
    counts = [len(tokens.encode(text)) for text in texts]
    return {'mean': round(sum(counts) / len(counts), 2), 'largest': max(counts)}

  report: dict[str, Any] = {}
  for split, contents in pages.items():
    report[f'{split}_article'] = lengths(contents)
    report[f'{split}_name'] = lengths([' ' + text.split('\n')[0] for text in contents])
  for hops in sorted({question.metadata['hops'] for question in asked}):
    report[f'question_{hops}'] = lengths([q.text for q in asked if q.metadata['hops'] == hops])
  return report


def _checks(
  by_hops: Mapping[int, Mapping[str, float]], *, shared: int
) -> dict[str, dict[str, Any]]:
  closed = max(row['closed_book_em'] for row in by_hops.values())
  raw = max((row['raw_question'] for hops, row in by_hops.items() if hops > 1), default=0.0)
  oracle = min(row['oracle'] for row in by_hops.values())
  return {
    'closed_book_em': _check(closed, CLOSED_BOOK_LIMIT, closed <= CLOSED_BOOK_LIMIT),
    'raw_question': _check(raw, RAW_QUESTION_LIMIT, raw <= RAW_QUESTION_LIMIT),
    'oracle': _check(oracle, ORACLE_LIMIT, oracle >= ORACLE_LIMIT),
    'names_shared_with_training': _check(shared, 0, shared == 0),
  }


def _check(value: float, limit: float, passed: bool) -> dict[str, Any]:
  return {'value': value, 'limit': limit, 'passed': passed}


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
  return round(sum(row[key] for row in rows) / len(rows), 4)


def _names(pages: Sequence[str]) -> set[str]:
  return {page.split('\n')[0] for page in pages}


def _pages(path: Path) -> list[str]:
  try:
    with path.open(encoding='utf-8') as file:
      return [json.loads(line)['contents'] for line in file]
  except OSError as error:
    raise UserError(
      f'no world at {path.parent.parent}: {error}. Write one with `jaxsearch world --out=FOLDER`.'
    ) from None
