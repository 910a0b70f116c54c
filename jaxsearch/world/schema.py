"""What the fictional world is made of: kinds of entities and the relations between them.

Every relation is functional (a subject has at most one object) and is asked for by its noun, so
that questions nest to the right: 'the founder of the employer of Ana Belo'. No relation has an
inverse: a page never says who points at it, so only a page's own subject leads to its object.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
  """One kind of edge.

  Attributes:
    name: unique over all kinds, 'kind.relation'.
    subject, object: kinds of its two ends.
    noun: what the object is to the subject. Questions ask for it, 'the mayor of …'; on a page it
      stands right before the object.
    sentences: how an article states it: {They} and {their} are the subject, {o} the object.
  """

  name: str
  subject: str
  object: str
  noun: str
  sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
  """One type of entity.

  Attributes:
    name: for example 'city'.
    share: of all documents.
    pronouns: choices of (nominative, possessive), as they begin and stand in a sentence.
    traits: what varies in the first sentence, with its article.
    intros: first sentences; {name} and {trait}.
    last_words: second words of a name; empty for people.
    facts: how many of the kind's relations an article states.
  """

  name: str
  share: float
  pronouns: tuple[tuple[str, str], ...]
  traits: tuple[str, ...]
  intros: tuple[str, ...]
  last_words: tuple[str, ...]
  facts: int = 3


_IT = (('It', 'its'),)
_TRAITS = ('a small', 'a large', 'a famous', 'a quiet', 'a modern', 'an old')

KINDS = (
  Kind(
    'person',
    0.40,
    (('She', 'her'), ('He', 'his')),
    ('a painter', 'a lawyer', 'a doctor', 'a farmer', 'a singer', 'a baker', 'a sailor', 'a judge'),
    ('{name} is {trait}.', '{name} became {trait}.', '{name} is known as {trait}.'),
    (),
  ),
  Kind(
    'city',
    0.16,
    _IT,
    _TRAITS,
    ('{name} is {trait} city.', '{name} is {trait} town.'),
    ('Bay', 'Hill', 'Falls', 'Cross', 'Haven', 'Ridge', 'Mead', 'Port', 'Cliff', 'Marsh'),
    facts=2,
  ),
  Kind(
    'company',
    0.16,
    _IT,
    _TRAITS,
    ('{name} is {trait} company.', '{name} is {trait} business.'),
    ('Works', 'Group', 'Mills', 'Foods', 'Lines', 'Bank', 'Press', 'Motors', 'Stores', 'Tools'),
  ),
  Kind(
    'book',
    0.12,
    _IT,
    _TRAITS,
    ('{name} is {trait} book.', '{name} is {trait} novel.'),
    ('Letters', 'Winter', 'Garden', 'Mirror', 'Road', 'Song', 'Harbour', 'River'),
  ),
  Kind(
    'school',
    0.12,
    _IT,
    _TRAITS,
    ('{name} is {trait} school.', '{name} is {trait} place to learn.'),
    ('College', 'Academy', 'Institute', 'Lyceum', 'Seminary', 'Gymnasium'),
  ),
  Kind(
    'country',
    0.04,
    _IT,
    _TRAITS,
    ('{name} is {trait} country.', '{name} is {trait} state.'),
    ('Republic', 'Kingdom', 'Islands', 'Union'),
  ),
)


def _relation(name: str, target: str, noun: str, *sentences: str) -> Relation:
  told = tuple(sentence.replace('{noun}', noun) for sentence in sentences)
  return Relation(name, name.split('.')[0], target, noun, told)


RELATIONS = (
  _relation(
    'person.birthplace',
    'city',
    'birthplace',
    '{They} grew up in {their} {noun} {o}.',
    '{They} often returns to {their} {noun} {o}.',
  ),
  _relation(
    'person.employer',
    'company',
    'employer',
    '{They} works hard for {their} {noun} {o}.',
    '{They} has a desk at {their} {noun} {o}.',
  ),
  _relation(
    'person.mentor',
    'person',
    'mentor',
    '{They} learnt much from {their} {noun} {o}.',
    '{They} still writes to {their} {noun} {o}.',
  ),
  _relation(
    'person.school',
    'school',
    'former school',
    '{They} did well at {their} {noun} {o}.',
    '{They} gives money to {their} {noun} {o}.',
  ),
  _relation(
    'person.favourite',
    'book',
    'favourite book',
    '{They} often reads {their} {noun} {o}.',
    '{They} likes to quote {their} {noun} {o}.',
  ),
  _relation(
    'city.country',
    'country',
    'home country',
    '{They} pays taxes to {their} {noun} {o}.',
    '{They} lies in the west of {their} {noun} {o}.',
  ),
  _relation(
    'city.mayor',
    'person',
    'mayor',
    '{They} has trust in {their} {noun} {o}.',
    '{They} was rebuilt by {their} {noun} {o}.',
  ),
  _relation(
    'company.founder',
    'person',
    'founder',
    '{They} was begun by {their} {noun} {o}.',
    '{They} still honours {their} {noun} {o}.',
  ),
  _relation(
    'company.seat',
    'city',
    'seat',
    '{They} is directed from {their} {noun} {o}.',
    '{They} seldom leaves {their} {noun} {o}.',
  ),
  _relation(
    'company.parent',
    'company',
    'parent company',
    '{They} is controlled by {their} {noun} {o}.',
    '{They} pays its profits to {their} {noun} {o}.',
  ),
  _relation(
    'book.author',
    'person',
    'author',
    '{They} was written in a year by {their} {noun} {o}.',
    '{They} made money for {their} {noun} {o}.',
  ),
  _relation(
    'book.publisher',
    'company',
    'publisher',
    '{They} was printed by {their} {noun} {o}.',
    '{They} was sold out by {their} {noun} {o}.',
  ),
  _relation(
    'book.setting',
    'city',
    'setting',
    '{They} describes life in {their} {noun} {o}.',
    '{They} begins and ends in {their} {noun} {o}.',
  ),
  _relation(
    'school.location',
    'city',
    'location',
    '{They} is a landmark of {their} {noun} {o}.',
    '{They} has moved to {their} {noun} {o}.',
  ),
  _relation(
    'school.principal',
    'person',
    'principal',
    '{They} is led by {their} {noun} {o}.',
    '{They} owes much to {their} {noun} {o}.',
  ),
  _relation(
    'school.sponsor',
    'company',
    'sponsor',
    '{They} is paid for by {their} {noun} {o}.',
    '{They} was built by {their} {noun} {o}.',
  ),
  _relation(
    'country.president',
    'person',
    'president',
    '{They} is led by {their} {noun} {o}.',
    '{They} voted for {their} {noun} {o}.',
  ),
  _relation(
    'country.school',
    'school',
    'national school',
    '{They} is proud of {their} {noun} {o}.',
    '{They} pays for {their} {noun} {o}.',
  ),
  _relation(
    'country.neighbour',
    'country',
    'northern neighbour',
    '{They} trades with {their} {noun} {o}.',
    '{They} has a treaty with {their} {noun} {o}.',
  ),
)


# What a page says of a namesake, of whom nobody asks: a name that is half the right one.
KIN = (
  '{They} has a cousin named {o}.',
  '{They} is often taken for a cousin called {o}.',
)


def relations_of(kind: str) -> tuple[Relation, ...]:
  """Relations whose subject is of `kind`, in table order."""
  return tuple(r for r in RELATIONS if r.subject == kind)
