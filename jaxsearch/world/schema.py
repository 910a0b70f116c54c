"""What the fictional world is made of: kinds of entities and the relations between them.

Every relation is functional (a subject has at most one object) and every phrase ends with its
subject, so that phrases nest to the right: 'the founder of the company that employs Ana Belo'.
No relation has an inverse: a page never says who points at it, so only a page's own subject
leads to its object.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
  """One kind of edge.

  Attributes:
    name: unique over all kinds, 'kind.relation'.
    subject, object: kinds of its two ends.
    noun: what the object is to the subject; on a page it stands right before the object.
    phrases: noun phrases of a question, the noun's own first; {} is the inner noun phrase.
    sentences: how an article states it: {They} and {their} are the subject, {o} the object.
  """

  name: str
  subject: str
  object: str
  noun: str
  phrases: tuple[str, ...]
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


def _relation(
  name: str, target: str, noun: str, phrase: str, sentences: tuple[str, ...]
) -> Relation:
  sentences = tuple(sentence.replace('{noun}', noun) for sentence in sentences)
  return Relation(
    name, name.split('.')[0], target, noun, (f'the {noun} of {{}}', phrase), sentences
  )


RELATIONS = (
  _relation(
    'person.birthplace',
    'city',
    'birthplace',
    'the native city of {}',
    ('{They} grew up in {their} {noun} {o}.', '{They} often returns to {their} {noun} {o}.'),
  ),
  _relation(
    'person.employer',
    'company',
    'employer',
    'the company that employs {}',
    ('{They} works hard for {their} {noun} {o}.', '{They} has a desk at {their} {noun} {o}.'),
  ),
  _relation(
    'person.mentor',
    'person',
    'mentor',
    'the person who taught {}',
    ('{They} learnt much from {their} {noun} {o}.', '{They} still writes to {their} {noun} {o}.'),
  ),
  _relation(
    'person.school',
    'school',
    'former school',
    'the school attended by {}',
    ('{They} did well at {their} {noun} {o}.', '{They} gives money to {their} {noun} {o}.'),
  ),
  _relation(
    'person.favourite',
    'book',
    'favourite book',
    'the book most loved by {}',
    ('{They} often reads {their} {noun} {o}.', '{They} likes to quote {their} {noun} {o}.'),
  ),
  _relation(
    'city.country',
    'country',
    'home country',
    'the country that contains {}',
    ('{They} pays taxes to {their} {noun} {o}.', '{They} lies in the west of {their} {noun} {o}.'),
  ),
  _relation(
    'city.mayor',
    'person',
    'mayor',
    'the person who governs {}',
    ('{They} has trust in {their} {noun} {o}.', '{They} was rebuilt by {their} {noun} {o}.'),
  ),
  _relation(
    'company.founder',
    'person',
    'founder',
    'the person who founded {}',
    ('{They} was begun by {their} {noun} {o}.', '{They} still honours {their} {noun} {o}.'),
  ),
  _relation(
    'company.seat',
    'city',
    'seat',
    'the city that hosts {}',
    ('{They} is directed from {their} {noun} {o}.', '{They} seldom leaves {their} {noun} {o}.'),
  ),
  _relation(
    'company.parent',
    'company',
    'parent company',
    'the company that controls {}',
    (
      '{They} is controlled by {their} {noun} {o}.',
      '{They} pays its profits to {their} {noun} {o}.',
    ),
  ),
  _relation(
    'book.author',
    'person',
    'author',
    'the person who wrote {}',
    (
      '{They} was written in a year by {their} {noun} {o}.',
      '{They} made money for {their} {noun} {o}.',
    ),
  ),
  _relation(
    'book.publisher',
    'company',
    'publisher',
    'the company that printed {}',
    ('{They} was printed by {their} {noun} {o}.', '{They} was sold out by {their} {noun} {o}.'),
  ),
  _relation(
    'book.setting',
    'city',
    'setting',
    'the city described in {}',
    (
      '{They} describes life in {their} {noun} {o}.',
      '{They} begins and ends in {their} {noun} {o}.',
    ),
  ),
  _relation(
    'school.location',
    'city',
    'location',
    'the city that houses {}',
    ('{They} is a landmark of {their} {noun} {o}.', '{They} has moved to {their} {noun} {o}.'),
  ),
  _relation(
    'school.principal',
    'person',
    'principal',
    'the person who runs {}',
    ('{They} is led by {their} {noun} {o}.', '{They} owes much to {their} {noun} {o}.'),
  ),
  _relation(
    'school.sponsor',
    'company',
    'sponsor',
    'the company that supports {}',
    ('{They} is paid for by {their} {noun} {o}.', '{They} was built by {their} {noun} {o}.'),
  ),
  _relation(
    'country.president',
    'person',
    'president',
    'the person who leads {}',
    ('{They} is led by {their} {noun} {o}.', '{They} voted for {their} {noun} {o}.'),
  ),
  _relation(
    'country.school',
    'school',
    'national school',
    'the school funded by {}',
    ('{They} is proud of {their} {noun} {o}.', '{They} pays for {their} {noun} {o}.'),
  ),
  _relation(
    'country.neighbour',
    'country',
    'northern neighbour',
    'the country north of {}',
    ('{They} trades with {their} {noun} {o}.', '{They} has a treaty with {their} {noun} {o}.'),
  ),
)


def relations_of(kind: str) -> tuple[Relation, ...]:
  """Relations whose subject is of `kind`, in table order."""
  return tuple(r for r in RELATIONS if r.subject == kind)
