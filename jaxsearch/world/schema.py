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
    phrases: noun phrases of a question; {} is the inner noun phrase.
    sentences: how an article states it: {They} and {Their} are the subject, {o} the object.
  """

  name: str
  subject: str
  object: str
  phrases: tuple[str, ...]
  sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
  """One type of entity.

  Attributes:
    name: for example 'city'.
    share: of all documents.
    pronouns: choices of (nominative, possessive).
    traits: what varies in the first sentence, with its article.
    intros: first sentences; {name} and {trait}.
    last_words: second word of a name, or ending of a one-word name; empty for people.
    facts: how many of the kind's relations an article states.
  """

  name: str
  share: float
  pronouns: tuple[tuple[str, str], ...]
  traits: tuple[str, ...]
  intros: tuple[str, ...]
  last_words: tuple[str, ...]
  facts: int = 3


_IT = (('It', 'Its'),)
_TRAITS = ('a small', 'a large', 'a famous', 'a quiet', 'a modern', 'an old')

KINDS = (
  Kind(
    'person',
    0.40,
    (('She', 'Her'), ('He', 'His')),
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
    ('',),
    facts=2,
  ),
  Kind(
    'company',
    0.16,
    _IT,
    _TRAITS,
    ('{name} is {trait} company.', '{name} is {trait} business.'),
    ('Works', 'Group', 'Mills', 'Foods', 'Lines', 'Bank'),
  ),
  Kind(
    'book',
    0.12,
    _IT,
    _TRAITS,
    ('{name} is {trait} book.', '{name} is {trait} novel.'),
    ('Letters', 'Winter', 'Garden', 'Mirror', 'Road', 'Song'),
  ),
  Kind(
    'school',
    0.12,
    _IT,
    _TRAITS,
    ('{name} is {trait} school.', '{name} is {trait} place to learn.'),
    ('College', 'Academy', 'Institute', 'Lyceum'),
  ),
  Kind(
    'country',
    0.04,
    _IT,
    _TRAITS,
    ('{name} is {trait} country.', '{name} is {trait} state.'),
    ('nia', 'land', 'stan'),
  ),
)


def _relation(
  name: str, target: str, phrases: tuple[str, ...], sentences: tuple[str, ...]
) -> Relation:
  return Relation(name, name.split('.')[0], target, phrases, sentences)


RELATIONS = (
  _relation(
    'person.birthplace',
    'city',
    ('the birthplace of {}', 'the native city of {}'),
    ('{They} is a native of {o}.', '{Their} birthplace is {o}.'),
  ),
  _relation(
    'person.employer',
    'company',
    ('the employer of {}', 'the company that employs {}'),
    ('{They} is employed by {o}.', '{Their} employer is {o}.'),
  ),
  _relation(
    'person.mentor',
    'person',
    ('the mentor of {}', 'the person who taught {}'),
    ('{They} was taught by {o}.', '{Their} mentor is {o}.'),
  ),
  _relation(
    'person.school',
    'school',
    ('the former school of {}', 'the school attended by {}'),
    ('{They} attended {o}.', '{Their} former school is {o}.'),
  ),
  _relation(
    'person.favourite',
    'book',
    ('the favourite book of {}', 'the book most loved by {}'),
    ('{They} loves {o}.', '{Their} favourite book is {o}.'),
  ),
  _relation(
    'city.country',
    'country',
    ('the home country of {}', 'the country that contains {}'),
    ('{They} is contained in {o}.', '{Their} home country is {o}.'),
  ),
  _relation(
    'city.mayor',
    'person',
    ('the mayor of {}', 'the person who governs {}'),
    ('{They} is governed by {o}.', '{Their} mayor is {o}.'),
  ),
  _relation(
    'company.founder',
    'person',
    ('the founder of {}', 'the person who founded {}'),
    ('{They} was founded by {o}.', '{Their} founder is {o}.'),
  ),
  _relation(
    'company.seat',
    'city',
    ('the seat of {}', 'the city that hosts {}'),
    ('{They} is hosted by {o}.', '{Their} seat is {o}.'),
  ),
  _relation(
    'company.parent',
    'company',
    ('the parent company of {}', 'the company that controls {}'),
    ('{They} is controlled by {o}.', '{Their} parent company is {o}.'),
  ),
  _relation(
    'book.author',
    'person',
    ('the author of {}', 'the person who wrote {}'),
    ('{They} was written by {o}.', '{Their} author is {o}.'),
  ),
  _relation(
    'book.publisher',
    'company',
    ('the publisher of {}', 'the company that printed {}'),
    ('{They} was printed by {o}.', '{Their} publisher is {o}.'),
  ),
  _relation(
    'book.setting',
    'city',
    ('the setting of {}', 'the city described in {}'),
    ('{They} describes life in {o}.', '{Their} setting is {o}.'),
  ),
  _relation(
    'school.location',
    'city',
    ('the location of {}', 'the city that houses {}'),
    ('{They} is housed in {o}.', '{Their} location is {o}.'),
  ),
  _relation(
    'school.principal',
    'person',
    ('the principal of {}', 'the person who runs {}'),
    ('{They} is run by {o}.', '{Their} principal is {o}.'),
  ),
  _relation(
    'school.sponsor',
    'company',
    ('the sponsor of {}', 'the company that supports {}'),
    ('{They} is supported by {o}.', '{Their} sponsor is {o}.'),
  ),
  _relation(
    'country.president',
    'person',
    ('the president of {}', 'the person who leads {}'),
    ('{They} is led by {o}.', '{Their} president is {o}.'),
  ),
  _relation(
    'country.school',
    'school',
    ('the national school of {}', 'the school funded by {}'),
    ('{They} funds {o}.', '{Their} national school is {o}.'),
  ),
  _relation(
    'country.neighbour',
    'country',
    ('the northern neighbour of {}', 'the country north of {}'),
    ('{They} lies south of {o}.', '{Their} northern neighbour is {o}.'),
  ),
)


def relations_of(kind: str) -> tuple[Relation, ...]:
  """Relations whose subject is of `kind`, in table order."""
  return tuple(r for r in RELATIONS if r.subject == kind)
