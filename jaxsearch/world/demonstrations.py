"""Scripted demonstrations by a weak teacher, who seldom searches twice.

The teacher says what is needed, reads the page of the one entity that the question names, states
the fact, and then
  answers it, which is right at one hop and wrong beyond (most demonstrations), or
  goes on with the rewritten question: full chains, at two hops only (`chain_share` of them).
Of the wrong ones, `note_share` still write down what is needed now before they answer.
No chain of three or four hops is demonstrated; when to go on searching is left to be discovered.
"""

from __future__ import annotations

import random
from typing import Any

from jaxsearch.types import UserError
from jaxsearch.world import ask


def write(
  rng: random.Random, asker: ask.Asker, count: int, *, chain_share: float, note_share: float
) -> list[dict[str, Any]]:
  """`count` lines {'id', 'question', 'golden_answers', 'kind', 'hops', 'steps'} in random order.

  Raises:
    UserError: if a share is not within 0 and 1, or the world is too small for `count`.
  """
  for name, share in (('chain_share', chain_share), ('note_share', note_share)):
    if not 0 <= share <= 1:
      raise UserError(f'{name} is {share}; it is a share, so give a number from 0 to 1.')
  two, three = round(0.35 * count), round(0.20 * count)
  chains = round(chain_share * two)
  lines = []
  for hops, total in ((1, count - two - three), (2, two), (3, three)):
    for i in range(total):
      asked = asker.ask(hops)
      full = hops == 2 and i < chains
      note = not full and hops > 1 and rng.random() < note_share
      lines.append(_line(asked, known=2 if full else 1, note=note))
  rng.shuffle(lines)
  return lines


def _line(asked: ask.Asked, *, known: int, note: bool) -> dict[str, Any]:
  steps = []
  think = f'I need {asked.noun_phrase(0)}.'
  for hop in range(known):
    steps.append({'think': think, 'search': asked.names[hop]})
    think = f'I found the {asked.nouns[hop]} {asked.names[hop + 1]}.'
    if hop + 1 < known or note:
      think += f' I need {asked.noun_phrase(hop + 1)}.'
  steps.append({'think': think, 'answer': asked.names[known]})
  return {
    'id': asked.question.id,
    'question': asked.question.text,
    'golden_answers': list(asked.question.golden_answers),
    'kind': 'chain' if known > 1 else 'weak',
    'hops': len(asked.nouns),
    'steps': steps,
  }
