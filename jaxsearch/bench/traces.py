"""Workloads of lengths and delays: what a rollout engine has to do, without a model that does it.

A trace says of every trajectory how long its prompt is, and of every turn how many tokens the
policy writes, how many the retriever's answer has and how long it takes. Engines that replay the
same trace do the same work. A file holds one JSON object a line:

  {"question": 0, "prompt": 256, "turns": [{"policy": 80, "observation": 450, "latency_s": 0.2},
                                           {"policy": 60}]}

Trajectories of one question stand next to each other and share its prompt; only the last turn has
no observation.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np

from jaxsearch import plugins
from jaxsearch.types import UserError


@dataclasses.dataclass(frozen=True)
class Turn:
  """Tokens of one turn; `latency_s` is the search's, from asking to answer."""

  policy: int
  observation: int = 0
  latency_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Script:
  """Lengths of one trajectory."""

  question: int
  prompt: int
  turns: tuple[Turn, ...]

  @property
  def policy(self) -> int:
    return sum(turn.policy for turn in self.turns)

  @property
  def length(self) -> int:
    return self.prompt + self.policy + sum(turn.observation for turn in self.turns)


@dataclasses.dataclass(frozen=True)
class Shape:
  """A distribution of scripts; every pair is (least, most) of uniform integers.

  Attributes:
    prompt: tokens of a question's prompt.
    searches: probability of 0, 1, 2, … searches.
    policy: tokens of a turn.
    observation: tokens of an answer.
    context: tokens of a trajectory; the last searches are left out where it would be longer.
    group: trajectories of a question.
    long: (share of turns, least, most): those that are far longer than `policy`.
  """

  prompt: tuple[int, int]
  searches: tuple[float, ...]
  policy: tuple[int, int]
  observation: tuple[int, int]
  context: int
  group: int
  long: tuple[float, int, int] = (0.0, 0, 0)


# Search-R1 (arXiv 2503.09516): three documents in at most 500 tokens, at most four searches, groups
# of five. ReSearch (arXiv 2503.19470): five whole documents, up to 8k tokens. The long tail: most
# answer at once, some search on and on, one turn in twenty thinks twenty times as long.
SHAPES = {
  'search_r1': Shape((200, 312), (0, 0.1, 0.2, 0.3, 0.4), (60, 120), (400, 500), 2560, 5),
  'research': Shape(
    (300, 400), (0, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1), (80, 240), (650, 950), 8192, 5
  ),
  'long_tail': Shape(
    (200, 312),
    (0.3, 0.3, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03),
    (20, 80),
    (100, 500),
    4096,
    5,
    (0.05, 400, 1200),
  ),
}


def make(name: str, trajectories: int, latency_s: float, seed: int = 0) -> list[Script]:
  """Scripts of the shape `name`; every search takes `latency_s`."""
  shape = SHAPES[name]
  rng = np.random.default_rng(seed)
  draw = lambda pair: int(rng.integers(pair[0], pair[1] + 1))
  share, *long = shape.long
  scripts: list[Script] = []
  for question in range(-(-trajectories // shape.group)):
    prompt = draw(shape.prompt)
    for _ in range(shape.group):
      searches = rng.choice(len(shape.searches), p=shape.searches)
      policy = [draw(long if rng.random() < share else shape.policy) for _ in range(searches + 1)]
      seen = [draw(shape.observation) for _ in range(searches)]
      while prompt + sum(policy) + sum(seen) > shape.context:
        policy, seen = policy[1:], seen[1:]
      turns = [Turn(p, o, latency_s) for p, o in zip(policy, seen)]
      scripts.append(Script(question, prompt, (*turns, Turn(policy[-1]))))
  return scripts[:trajectories]


def read(path: str) -> list[Script]:
  """The scripts of a file.

  Raises:
    UserError: there is no such file, or a line is not a script; names it.
  """
  if not os.path.isfile(path):
    raise UserError(f'--trace is {path!r}; allowed: an existing file, or {", ".join(SHAPES)}.')
  scripts = []
  with open(path, encoding='utf-8') as file:
    for number, line in enumerate(file, 1):
      try:
        made = json.loads(line)
        turns = tuple(Turn(**turn) for turn in made.pop('turns'))
        script = Script(turns=turns, **made)
      except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
          f'{path}, line {number} is not a trajectory of a trace: {error}. Write '
          '{"question": 0, "prompt": 256, "turns": [{"policy": 80, "observation": 450, '
          '"latency_s": 0.2}, {"policy": 60}]}.'
        ) from None
      _check(path, number, script)
      scripts.append(script)
  if not scripts:
    raise UserError(f'{path} holds no trajectory; give one JSON object a line.')
  return scripts


def open_trace(name: str, trajectories: int, latency_s: float) -> list[Script]:
  """A shape by its name, or a file's first `trajectories`, with the delays that it names."""
  if name in SHAPES:
    return make(name, trajectories, latency_s)
  if name.endswith('.jsonl'):
    return read(name)[:trajectories]
  raise UserError(
    f'--trace is {name!r}; allowed: {", ".join(SHAPES)}, or a file of JSON lines that ends in '
    f'.jsonl.{plugins.nearest(name, SHAPES)}'
  )


def _check(path: str, number: int, script: Script) -> None:
  lengths = [script.prompt, *(t.policy for t in script.turns)]
  lengths += [t.observation for t in script.turns[:-1]]
  whole = all(type(n) is int and n > 0 for n in lengths) and type(script.question) is int
  if not script.turns or not whole or script.turns[-1].observation != 0:
    raise UserError(
      f"{path}, line {number}: prompt, every policy and every observation but the last turn's "
      'must be whole numbers of at least 1 token, question a whole number, and the last turn has '
      'no observation.'
    )
  delays = [turn.latency_s for turn in script.turns]
  if not all(isinstance(s, int | float) and 0 <= s < float('inf') for s in delays):
    raise UserError(f'{path}, line {number}: latency_s is one of {delays}; allowed: 0 or more.')


def longest(scripts: Sequence[Script]) -> int:
  """Tokens of the longest trajectory."""
  return max(script.length for script in scripts)
