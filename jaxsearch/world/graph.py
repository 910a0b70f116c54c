"""The knowledge graph of one world: entities and the facts that their articles state.

Invariant: if a page names another one, that page does not name it back. A question names only
its start, so a search for its words finds the start's page and not the page of the answer.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from jaxsearch.types import UserError
from jaxsearch.world import names, schema

_LEAST_DOCUMENTS = 100
_TRIES = 50  # Then the article does without that fact.


@dataclasses.dataclass(frozen=True)
class Entity:
  """A thing with a page of its own. `pronouns` is (nominative, possessive)."""

  id: str
  name: str
  kind: schema.Kind
  pronouns: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Graph:
  """What the pages say.

  Attributes:
    entities: in document order.
    facts: id -> relation name -> the object's id.
    kin: id -> id of a person of the same surname whom its page names besides.
  """

  entities: tuple[Entity, ...]
  facts: Mapping[str, Mapping[str, str]]
  kin: Mapping[str, str]

  def entity(self, id: str) -> Entity:
    return self.entities[int(id.rsplit('-', 1)[1])]


def make(
  rng: random.Random, namer: names.Namer, *, prefix: str, documents: int, namesakes: bool = False
) -> Graph:
  """A graph of `documents` entities with ids '<prefix>-<number>'.

  Args:
    rng, namer: where chance and names come from.
    prefix, documents: see above.
    namesakes: whether people have kin.

  Raises:
    UserError: if `documents` is too few for four hops without coming back, or too many to name.
  """
  if documents < _LEAST_DOCUMENTS:
    raise UserError(
      f'documents is {documents}; a world needs at least {_LEAST_DOCUMENTS}. Ask for more.'
    )
  counts = {kind.name: round(kind.share * documents) for kind in schema.KINDS}
  counts['person'] += documents - sum(counts.values())
  named = [
    (namer.name(kind.last_words), kind) for kind in schema.KINDS for _ in range(counts[kind.name])
  ]
  rng.shuffle(named)
  entities = tuple(
    Entity(f'{prefix}-{i:05d}', name, kind, rng.choice(kind.pronouns))
    for i, (name, kind) in enumerate(named)
  )
  facts = _facts(rng, entities)
  return Graph(entities, facts, _kin(rng, entities, facts) if namesakes else {})


def _facts(rng: random.Random, entities: tuple[Entity, ...]) -> dict[str, dict[str, str]]:
  by_kind: dict[str, list[Entity]] = {}
  for entity in entities:
    by_kind.setdefault(entity.kind.name, []).append(entity)
  facts: dict[str, dict[str, str]] = {entity.id: {} for entity in entities}
  for entity in entities:
    known = facts[entity.id]
    relations = schema.relations_of(entity.kind.name)
    for relation in rng.sample(relations, entity.kind.facts):
      for _ in range(_TRIES):
        other = rng.choice(by_kind[relation.object])
        linked = entity.id in facts[other.id].values() or other.id in known.values()
        if other.id != entity.id and not linked:
          known[relation.name] = other.id
          break
  return facts


def _kin(
  rng: random.Random, entities: tuple[Entity, ...], facts: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
  by_surname: dict[str, list[Entity]] = {}
  for entity in entities:
    if entity.kind.name == 'person':
      by_surname.setdefault(entity.name.split()[-1], []).append(entity)
  kin: dict[str, str] = {}
  for namesakes in by_surname.values():
    for entity in namesakes:
      linked = {entity.id, *facts[entity.id].values()}
      choices = [
        other.id
        for other in namesakes
        if other.id not in linked
        and entity.id not in facts[other.id].values()
        and kin.get(other.id) != entity.id
      ]
      if choices:
        kin[entity.id] = rng.choice(choices)
  return kin
