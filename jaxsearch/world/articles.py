"""One short page per entity: a title line, what it is, then its facts in any order."""

from __future__ import annotations

import random
import re

from jaxsearch.world import graph, schema

_RELATION = {relation.name: relation for relation in schema.RELATIONS}


def write(rng: random.Random, world: graph.Graph) -> list[dict[str, str]]:
  """Corpus lines {'id', 'contents'}; the first line of contents is the title."""
  return [
    {'id': entity.id, 'contents': f'{entity.name}\n{_body(rng, world, entity)}'}
    for entity in world.entities
  ]


def words() -> set[str]:
  """Every word of the templates, which no name may look like."""
  texts = [text for relation in schema.RELATIONS for text in (relation.noun, *relation.sentences)]
  texts += schema.KIN
  texts += [text for kind in schema.KINDS for text in kind.intros + kind.traits + kind.last_words]
  return {word.lower() for text in texts for word in re.findall(r'[A-Za-z]+', text)}


def _body(rng: random.Random, world: graph.Graph, entity: graph.Entity) -> str:
  kind = entity.kind
  sentences = [rng.choice(kind.intros).format(name=entity.name, trait=rng.choice(kind.traits))]
  told = [(_RELATION[name].sentences, other) for name, other in world.facts[entity.id].items()]
  if entity.id in world.kin:
    told.append((schema.KIN, world.kin[entity.id]))
  rng.shuffle(told)
  # One fact repeats the name: a page about a thing says its name more often than other pages do.
  full = rng.randrange(len(told))
  for i, (ways, other) in enumerate(told):
    they, their = entity.pronouns
    if i == full:
      they = entity.name
    sentences.append(rng.choice(ways).format(They=they, their=their, o=world.entity(other).name))
  return ' '.join(sentences)
