"""Questions: a walk over the graph, worded inside out and put into a carrier sentence.

What is disjoint between training, dev and test: entities with their names, and the carrier
sentences. What is shared: the words of names and the noun of each relation, which are the
vocabulary that a policy must have learnt. About a fifth of the relation sequences of two hops and
more are never asked in training; dev and test ask them too and mark them.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Sequence

from jaxsearch.types import Question, UserError
from jaxsearch.world import graph, schema

_RELATIONS = {kind.name: schema.relations_of(kind.name) for kind in schema.KINDS}

# (for a person, for anything else); {} is the noun phrase.
_CARRIERS = {
  'train': (
    ('Who is {}?', 'What is {}?'),
    ('Name {}.', 'Name {}.'),
    ('Can you tell me {}?', 'Can you tell me {}?'),
    ('Do you know who {} is?', 'Do you know what {} is?'),
    ('I am looking for {}.', 'I am looking for {}.'),
    ('Tell us {}.', 'Tell us {}.'),
    ('Who could {} be?', 'What could {} be?'),
    ('Please say who {} is.', 'Please say what {} is.'),
    ('I would like to know {}.', 'I would like to know {}.'),
    ('Does anyone know {}?', 'Does anyone know {}?'),
    ('Could you find out who {} is?', 'Could you find out what {} is?'),
    ('My question is who {} is.', 'My question is what {} is.'),
    ('We want the name of {}.', 'We want the name of {}.'),
    ('Look up {} for me.', 'Look up {} for me.'),
    ('Have you heard of {}?', 'Have you heard of {}?'),
    ('Give {}.', 'Give {}.'),
    ('Give me the name of {}.', 'Give me the name of {}.'),
    ('Kindly state {}.', 'Kindly state {}.'),
    ('Please find {}.', 'Please find {}.'),
    ('Write down {}.', 'Write down {}.'),
    ('Somebody asked for {}.', 'Somebody asked for {}.'),
    ('They need {}.', 'They need {}.'),
    ('Whom do you take for {}?', 'What do you take for {}?'),
    ('Help me to find {}.', 'Help me to find {}.'),
    ('You should know {}.', 'You should know {}.'),
    ('The question is who {} is.', 'The question is what {} is.'),
    ('Remind me of {}.', 'Remind me of {}.'),
    ('Who was said to be {}?', 'What was said to be {}?'),
    ('Say {}.', 'Say {}.'),
    ('Would you name {}?', 'Would you name {}?'),
  ),
  'dev': (
    ('Find {}.', 'Find {}.'),
    ('Who might {} be?', 'What might {} be?'),
    ('Can anyone name {}?', 'Can anyone name {}?'),
  ),
  'test': (
    ('Tell me who {} is.', 'Tell me what {} is.'),
    ('Please name {}.', 'Please name {}.'),
    ('I want to know {}.', 'I want to know {}.'),
    ('Could you look for {}?', 'Could you look for {}?'),
  ),
}
_TRIES = 200


@dataclasses.dataclass(frozen=True)
class Asked:
  """A question with the pieces it was made of.

  Attributes:
    question: as it is written to a file.
    names: start, intermediate entities and answer: hops + 1.
    nouns: what the object of each hop is to its subject, innermost first.
  """

  question: Question
  names: tuple[str, ...]
  nouns: tuple[str, ...]

  def noun_phrase(self, hop: int) -> str:
    """What is still wanted once `hop` hops are known."""
    return nest(self.names[hop], self.nouns[hop:])


def nest(name: str, nouns: Sequence[str]) -> str:
  """'the founder of the employer of Ana Belo' from the name outwards."""
  for noun in nouns:
    name = f'the {noun} of {name}'
  return name


class Asker:
  """Asks about one world; never the same chain twice."""

  def __init__(self, rng: random.Random, world: graph.Graph, split: str):
    self._rng = rng
    self._world = world
    self._split = split
    self._asked: set[tuple[str, ...]] = set()
    self._by_kind = {
      kind.name: [e for e in world.entities if e.kind.name == kind.name] for kind in schema.KINDS
    }
    # Between once per kind and once per entity: rare kinds are asked often enough to be learnt.
    self._weights = [len(self._by_kind[kind.name]) ** 0.5 for kind in schema.KINDS]

  def ask(self, hops: int) -> Asked:
    """One new question.

    Raises:
      UserError: if the world has no chain of `hops` hops left.
    """
    for _ in range(_TRIES):
      walk = self._walk(hops)
      if walk is None:
        continue
      key = (walk[0][0].id, *(relation.name for relation in walk[1]))
      if key not in self._asked:
        self._asked.add(key)
        return self._word(*walk)
    raise UserError(
      f'the {self._split} world of {len(self._world.entities)} documents has too few chains of '
      f'{hops} hops for that many questions. Ask for more documents or for fewer questions.'
    )

  def _walk(self, hops: int) -> tuple[list[graph.Entity], list[schema.Relation]] | None:
    kind = self._rng.choices(schema.KINDS, self._weights)[0]
    entities = [self._rng.choice(self._by_kind[kind.name])]
    relations: list[schema.Relation] = []
    for _ in range(hops):
      facts = self._world.facts[entities[-1].id]
      # No noun twice: of "the mentor of the mentor" it is hard to say how much is done.
      nouns = {r.noun for r in relations}
      choices = [r for r in _RELATIONS[entities[-1].kind.name] if r.name in facts]
      choices = [r for r in choices if r.noun not in nouns]
      if not choices:
        return None
      relation = self._rng.choice(choices)
      other = self._world.entity(facts[relation.name])
      if other in entities:
        return None
      entities.append(other)
      relations.append(relation)
    if self._split == 'train' and not _in_training(relations):
      return None
    return entities, relations

  def _word(self, entities: list[graph.Entity], relations: list[schema.Relation]) -> Asked:
    hops = len(relations)
    names = tuple(entity.name for entity in entities)
    nouns = tuple(relation.noun for relation in relations)
    carrier = self._rng.choice(_CARRIERS[self._split])[entities[-1].kind.name != 'person']
    chain = [
      {'subject': a.name, 'relation': r.name, 'object': b.name, 'document': a.id}
      for a, r, b in zip(entities, relations, entities[1:])
    ]
    metadata = {
      'hops': hops,
      'chain': chain,
      'supporting_documents': [entity.id for entity in entities[:-1]],
      'chain_in_training': _in_training(relations),
    }
    question = Question(
      id=f'{self._split}-{hops}hop-{len(self._asked):05d}',
      text=carrier.format(nest(names[0], nouns)),
      golden_answers=(names[-1],),
      metadata=metadata,
    )
    return Asked(question, names, nouns)


def _in_training(relations: Sequence[schema.Relation]) -> bool:
  sequence = ' '.join(relation.name for relation in relations)
  return len(relations) < 2 or zlib.crc32(sequence.encode()) % 5 != 0
