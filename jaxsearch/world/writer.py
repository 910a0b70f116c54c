"""Writes the three worlds of a seed. The same arguments give the same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsearch import questions
from jaxsearch.text import tokenizer
from jaxsearch.types import Question, UserError
from jaxsearch.world import articles, ask, demonstrations, graph, names

# What differs from the defaults of `write`.
SIZES = {
  'default': {},
  'ci': {
    'documents': 600,
    'train_documents': 1200,
    'demonstration_count': 800,
    'train_per_hop': 100,
    'dev_per_hop': 12,
    'test_per_hop': 25,
  },
}
TRAIN_HOPS = (1, 2, 3)
HELD_OUT_HOPS = (1, 2, 3, 4)
# Words that are single tokens to every real model. A tag in brackets still is several.
_COMMON_WORDS = ['think', 'search', 'result', 'answer', 'boxed']


def write(
  out: str | Path,
  seed: int,
  documents: int = 2400,
  *,
  train_documents: int = 4000,
  demonstration_count: int = 12000,
  train_per_hop: int = 1200,
  dev_per_hop: int = 40,
  test_per_hop: int = 300,
  second_share: float = 0.3,
  vocabulary: int = 1472,
) -> dict[str, Any]:
  """Writes {train,dev,test}/{corpus,questions}.jsonl, train/demonstrations.jsonl and tokenizer/.

  Args:
    out: folder, made if need be.
    seed: same seed, same bytes.
    documents: of the dev and of the test world.
    train_documents: of the training world. More, so that copying a name pays and learning names by
      heart does not.
    demonstration_count: in all: 45 % of one hop, 35 % of two, 20 % of three.
    train_per_hop: training questions of two and of three hops, and twice those of one; none is
      demonstrated.
    dev_per_hop, test_per_hop: questions of each of one to four hops.
    second_share: of the demonstrations beyond one hop, those that search twice.
    vocabulary: entries of the byte-level BPE, trained on the training world's texts only; so many
      that every word of a name is one token.

  Returns:
    The counts and shares that it also writes to world.json.

  Raises:
    UserError: if an amount or share is impossible or `out` cannot be written.
  """
  amounts = {
    'train': dict.fromkeys(TRAIN_HOPS, train_per_hop) | {1: train_per_hop // 2},
    'dev': dict.fromkeys(HELD_OUT_HOPS, dev_per_hop),
    'test': dict.fromkeys(HELD_OUT_HOPS, test_per_hop),
  }
  sizes = {'train': train_documents, 'dev': documents, 'test': documents}
  pages, askers, asked = _make(seed, sizes, amounts)
  shown = demonstrations.write(
    random.Random(f'{seed}/demonstrations'),
    askers['train'],
    demonstration_count,
    second_share=second_share,
  )
  facts = {'seed': seed, 'documents': documents, 'train_documents': train_documents}
  facts |= {'vocabulary': vocabulary}
  facts |= {'questions_by_hops': amounts, 'demonstrations': _shares(shown)}
  _save(Path(out), pages, asked, shown, facts)
  return facts


def _make(
  seed: int, sizes: dict[str, int], amounts: dict[str, dict[int, int]]
) -> tuple[dict[str, list[dict[str, str]]], dict[str, ask.Asker], dict[str, list[Question]]]:
  """(pages, askers, questions) of each split, which share no name."""
  namer = names.Namer(random.Random(f'{seed}/names'), articles.words())
  pages, askers, asked = {}, {}, {}
  for split, wanted in amounts.items():
    rng = random.Random(f'{seed}/{split}')
    world = graph.make(rng, namer, prefix=split, documents=sizes[split])
    pages[split] = articles.write(rng, world)
    askers[split] = ask.Asker(rng, world, split)
    asked[split] = [
      askers[split].ask(hops).question for hops, count in wanted.items() for _ in range(count)
    ]
  return pages, askers, asked


def _save(
  out: Path,
  pages: dict[str, list[dict[str, str]]],
  asked: dict[str, list[Question]],
  shown: list[dict[str, Any]],
  facts: dict[str, Any],
) -> None:
  try:
    texts = _texts(pages['train'], asked['train'], shown)
    tokenizer.train(texts, facts['vocabulary'], out / 'tokenizer')
    for split in pages:
      (out / split).mkdir(parents=True, exist_ok=True)
      _write_lines(out / split / 'corpus.jsonl', pages[split])
      questions.write(out / split / 'questions.jsonl', asked[split])
    _write_lines(out / 'train' / 'demonstrations.jsonl', shown)
    (out / 'world.json').write_text(json.dumps(facts, indent=2) + '\n', encoding='utf-8')
  except OSError as error:
    raise UserError(f'cannot write the world to {out}: {error}. Choose another folder.') from None


def _shares(lines: list[dict[str, Any]]) -> dict[str, Any]:
  def share(wanted: Callable[[dict[str, Any]], bool]) -> float:
    return round(sum(map(wanted, lines)) / max(1, len(lines)), 4)

  def searches(line: dict[str, Any]) -> int:
    return len(line['steps']) - 1

  def right(line: dict[str, Any]) -> bool:
    return line['steps'][-1]['answer'] in line['golden_answers']

  return {
    'count': len(lines),
    'by_hops': {hops: sum(line['hops'] == hops for line in lines) for hops in TRAIN_HOPS},
    'share_with_one_search': share(lambda line: searches(line) == 1),
    'share_of_full_chains': share(lambda line: right(line) and searches(line) > 1),
    'share_of_wrong_answers': share(lambda line: not right(line)),
    'longest_full_chain': max((line['hops'] for line in lines if right(line)), default=0),
    'most_searches': max(map(searches, lines), default=0),
  }


def _texts(
  pages: list[dict[str, str]], asked: list[Question], shown: list[dict[str, Any]]
) -> list[str]:
  """The training world's articles, questions and demonstrated thoughts, and some common words."""
  return [
    *(page['contents'] for page in pages),
    *(question.text for question in asked),
    *(step['think'] for line in shown for step in line['steps']),
    *(_COMMON_WORDS * (len(pages) // 10)),
  ]


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
  text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  path.write_text(text, encoding='utf-8')
