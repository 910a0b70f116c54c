"""Scripted demonstrations by a weak teacher, who seldom searches twice and never three times.

The teacher writes down what is needed and, in `silent_share` of the demonstrations, answers at once
with the only name it knows, that in the question, which is always wrong. Otherwise it reads the
page of the one entity that this names, states the fact, and then
  answers it, which is right at one hop and wrong beyond (most demonstrations), or
  goes on with the rewritten question: `second_share` of the demonstrations beyond one hop. At two
  hops these are full chains; at three they stop one page short and are wrong like the others.
Wrong ones of these, too, write down what is needed now before they answer all the same.
No chain of three or four hops is demonstrated; when to go on searching is left to be discovered.
"""

from __future__ import annotations

import random
from typing import Any

from jaxsearch.types import UserError
from jaxsearch.world import ask


def write(
  rng: random.Random, asker: ask.Asker, count: int, *, second_share: float, silent_share: float
) -> list[dict[str, Any]]:
  """`count` lines {'id', 'question', 'golden_answers', 'hops', 'steps'} in random order.

  Raises:
    UserError: if a share is not within 0 and 1, or the world is too small for `count`.
  """
  for name, share in (('second_share', second_share), ('silent_share', silent_share)):
    if not 0 <= share <= 1:
      raise UserError(f'{name} is {share}; it is a share, so give a number from 0 to 1.')
  two, three = round(0.35 * count), round(0.20 * count)
  lines = []
  for hops, total in ((1, count - two - three), (2, two), (3, three)):
    silent = round(silent_share * total)
    twice = round(second_share * (total - silent)) if hops > 1 else 0
    searches = [0] * silent + [2] * twice + [1] * (total - silent - twice)
    lines += [_line(asker.ask(hops), searches=n) for n in searches]
  rng.shuffle(lines)
  return lines


def _line(asked: ask.Asked, *, searches: int) -> dict[str, Any]:
  steps = []
  think = f'I need {asked.noun_phrase(0)}.'
  for hop in range(searches):
    steps.append({'think': think, 'search': asked.names[hop]})
    think = f'I found the {asked.nouns[hop]} {asked.names[hop + 1]}.'
    if hop + 1 < len(asked.nouns):
      think += f' I need {asked.noun_phrase(hop + 1)}.'
  steps.append({'think': think, 'answer': asked.names[searches]})
  return {
    'id': asked.question.id,
    'question': asked.question.text,
    'golden_answers': list(asked.question.golden_answers),
    'hops': len(asked.nouns),
    'steps': steps,
  }
