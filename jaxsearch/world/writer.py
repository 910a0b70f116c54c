"""Writes the three worlds of a seed. The same arguments give the same bytes."""

from __future__ import annotations

import collections
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsearch import questions
from jaxsearch.text import tokenizer
from jaxsearch.types import Question, UserError
from jaxsearch.world import articles, ask, demonstrations, graph, names

HELD_OUT_HOPS = (1, 2, 3, 4)
# Words that are single tokens to every real model. A tag in brackets still is several.
_COMMON_WORDS = ['think', 'search', 'result', 'answer', 'boxed']


@dataclasses.dataclass(frozen=True)
class Size:
  """How much of everything there is in a world, and how hard it is.

  Attributes:
    documents: of the dev and of the test world.
    train_documents: of the training world. More, so that copying a name pays and learning names by
      heart does not.
    demonstration_count: in all: 45 % of one hop, 35 % of two, 20 % of three.
    train_per_hop: training questions of each of `train_hops`, and half as many of one hop; none is
      demonstrated.
    train_hops: hops of the training questions.
    dev_per_hop, test_per_hop: questions of each of one to four hops.
    second_share: of the demonstrations that search and are beyond one hop, those that search twice.
    silent_share: of the demonstrations, those that answer without a search.
    surnames: how many all people share.
    namesakes: whether the page of a person names another one of the same surname.
    vocabulary: entries of the byte-level BPE, trained on the training world's texts only; so many
      that every word of a name is one token.
  """

  documents: int = 2400
  train_documents: int = 4000
  demonstration_count: int = 12000
  train_per_hop: int = 1200
  train_hops: tuple[int, ...] = (1, 2, 3)
  dev_per_hop: int = 40
  test_per_hop: int = 300
  second_share: float = 0.3
  silent_share: float = 0.0
  surnames: int = 96
  namesakes: bool = False
  vocabulary: int = 1472


_CI = Size(
  documents=600,
  train_documents=1200,
  demonstration_count=800,
  train_per_hop=100,
  dev_per_hop=12,
  test_per_hop=25,
)
# A teacher who mostly does not search, pages that name the wrong person of the right surname, and
# training questions of four hops: what methods are compared on.
_HARD = {'surnames': 48, 'namesakes': True, 'silent_share': 0.55, 'train_hops': (1, 2, 3, 4)}
SIZES = {
  'default': Size(),
  'ci': _CI,
  'hard': Size(dev_per_hop=16, test_per_hop=60, **_HARD),
  'hard-ci': dataclasses.replace(_CI, **_HARD),
}


def write(out: str | Path, seed: int, size: Size = SIZES['default']) -> dict[str, Any]:
  """Writes {train,dev,test}/{corpus,questions}.jsonl, train/demonstrations.jsonl and tokenizer/.

  Args:
    out: folder, made if need be.
    seed: same seed, same bytes.
    size: amounts and shares.

  Returns:
    The counts and shares that it also writes to world.json.

  Raises:
    UserError: if an amount or share is impossible or `out` cannot be written.
  """
  per_hop = size.train_per_hop
  amounts = {
    'train': {h: per_hop // 2 if h == 1 else per_hop for h in size.train_hops},
    'dev': dict.fromkeys(HELD_OUT_HOPS, size.dev_per_hop),
    'test': dict.fromkeys(HELD_OUT_HOPS, size.test_per_hop),
  }
  pages, askers, asked = _make(seed, size, amounts)
  shown = demonstrations.write(
    random.Random(f'{seed}/demonstrations'),
    askers['train'],
    size.demonstration_count,
    second_share=size.second_share,
    silent_share=size.silent_share,
  )
  facts = {'seed': seed, **dataclasses.asdict(size)}
  facts |= {'questions_by_hops': amounts, 'demonstrations': _shares(shown)}
  _save(Path(out), pages, asked, shown, facts)
  return facts


def _make(
  seed: int, size: Size, amounts: dict[str, dict[int, int]]
) -> tuple[dict[str, list[dict[str, str]]], dict[str, ask.Asker], dict[str, list[Question]]]:
  """(pages, askers, questions) of each split, which share no name."""
  namer = names.Namer(random.Random(f'{seed}/names'), articles.words(), size.surnames)
  pages, askers, asked = {}, {}, {}
  for split, wanted in amounts.items():
    rng = random.Random(f'{seed}/{split}')
    documents = size.train_documents if split == 'train' else size.documents
    world = graph.make(rng, namer, prefix=split, documents=documents, namesakes=size.namesakes)
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
    'by_hops': dict(sorted(collections.Counter(line['hops'] for line in lines).items())),
    'share_without_search': share(lambda line: searches(line) == 0),
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
