"""What every simulated search engine has in common: what it is asked, and how its text is read.

Two modes (`retrieval.mode`):

  tuned      the model was trained to simulate: the request names the question and its accepted
             answers, and the word useful or noisy
  prompted   any instruction-following model: the same with an example; noisy requests tell neither
             question nor answer

The wording is ours, or that of the file `retrieval.prompt`: a small model wants a short one. The
question is that of the row that asks, found by its id in `retrieval.questions`, never by its place
in a batch.

Documents are written as 'Doc 1: …', 'Doc 2: …'. As in a corpus file the first line of one is its
title; a document of a single line has the query as its title.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from jaxsearch import config, questions
from jaxsearch.retrieval import _noise
from jaxsearch.types import Document, Question, SearchRequest, UserError

MODES = ('prompted', 'tuned')
TEMPERATURE = 0.8  # ZeroSearch's.
NEEDED = ('{query}', '{kind}')  # In a prompt file; {question}, {answers} and {top_k} may be there.
_PLACE = re.compile(r'\{(query|kind|question|answers|top_k)\}')
_MARK = r'Doc(?:ument)?\s*\d+\s*[:.]\s*'
_DOCUMENT = re.compile(rf'^\s*{_MARK}', re.MULTILINE)
_OWN_MARKS = re.compile(rf'^(?:{_MARK})+')
_ASK = {
  True: (
    'You are a search engine. Write {top_k} short documents of about 30 words that a search for '
    'the query below would find and that are useful for it.\n'
  ),
  False: (
    'You are a search engine. Write {top_k} short documents of about 30 words that a search for '
    'the query below would find and that are noisy: on a related subject, without what is asked '
    'for.\n'
  ),
}
_FACTS = 'The user wants to know: {question} The answer is: {answers}.\n'
_EXAMPLE = {
  True: (
    'Example:\nQuery: capital of Norway\n'
    'Doc 1: Oslo is the capital of Norway and its largest city.\n'
    'Doc 2: The parliament of Norway sits in the capital, Oslo.\n\n'
  ),
  False: (
    'Example:\nQuery: capital of Norway\n'
    'Doc 1: Norway has a long coast with many deep fjords.\n'
    'Doc 2: Several towns have been important for the trade of the country.\n\n'
  ),
}


@dataclasses.dataclass(frozen=True)
class Wording:
  """How a simulator is asked.

  Attributes:
    mode: one of `MODES`.
    own: text of the prompt file; empty for the wording of this file.
  """

  mode: str
  own: str = ''

  def prompt(self, query: str, is_useful: bool, question: Question | None, top_k: int) -> str:
    """What the model is asked; places are filled once, whatever the query spells.

    Args:
      query: what the policy wrote.
      is_useful: or noisy.
      question: of the row that asks; None if it is not known.
      top_k: documents wanted.
    """
    is_told = question is not None and (is_useful or self.mode == 'tuned')
    values = {
      'query': query,
      'kind': 'useful' if is_useful else 'noisy',
      'question': question.text if is_told else '',
      'answers': ' or '.join(question.golden_answers) if is_told else '',
      'top_k': str(top_k),
    }
    text = self.own or self._text(is_useful, is_told)
    return _PLACE.sub(lambda place: values[place[1]], text)

  def _text(self, is_useful: bool, is_told: bool) -> str:
    parts = (
      _ASK[is_useful],
      _FACTS if is_told else '',
      _EXAMPLE[is_useful] if self.mode == 'prompted' else '',
      f'Query: {{query}}\n{"Useful" if is_useful else "Noisy"} documents:\n',
    )
    return ''.join(parts)


def wording(settings: config.Retrieval) -> Wording:
  """The wording that the settings ask for.

  Raises:
    UserError: for an unknown mode, or a prompt file that is missing or lacks a place.
  """
  if settings.mode not in MODES:
    raise UserError(f'retrieval.mode is {settings.mode!r}; allowed: {", ".join(MODES)}.')
  if not settings.prompt:
    return Wording(settings.mode)
  try:
    own = pathlib.Path(settings.prompt).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'retrieval.prompt names {settings.prompt!r}, which cannot be read: {error}. Give a text '
      "file, or leave it empty for the simulator's own wording."
    ) from error
  missing = [place for place in NEEDED if place not in own]
  if missing:
    raise UserError(
      f'retrieval.prompt is {settings.prompt!r}, which has no {" and no ".join(missing)}. Write '
      'them where they belong: the query and the word useful or noisy.'
    )
  return Wording(settings.mode, own)


class Asker:
  """The prompts of requests."""

  def __init__(self, settings: config.Retrieval):
    """Reads the question file; raises UserError as `wording` and `questions.read`."""
    self._settings = settings
    self._wording = wording(settings)
    self._questions: Mapping[str, Question] = {q.id: q for q in questions.read(settings.questions)}

  def prompts(self, request: SearchRequest) -> list[str]:
    """One prompt per query, all useful or all noisy."""
    question = self._questions.get(request.question_id)
    is_useful = self.is_useful(request)
    return [
      self._wording.prompt(query, is_useful, question, request.top_k) for query in request.queries
    ]

  def is_useful(self, request: SearchRequest) -> bool:
    """Whether the answer is to be useful: one draw from the request's own key."""
    return not _noise.is_noisy(self._settings, request)

  def documents(self, request: SearchRequest, query: str, text: str) -> tuple[Document, ...]:
    """The documents in what the model wrote for one query of the request."""
    kind = 'useful' if self.is_useful(request) else 'noisy'
    found = []
    for n, body in enumerate(split(text, request.top_k), start=1):
      title, _, rest = body.partition('\n')
      title, rest = (title.strip(), rest.strip()) if rest.strip() else (query, body)
      found.append(Document(f'simulated-{kind}-{n}', title, rest, 1.0 / n))
    return tuple(found)


def split(text: str, top_k: int) -> list[str]:
  """The texts behind 'Doc 1:', 'Doc 2:', …, at most `top_k`; a text without any is one document."""
  marks = list(_DOCUMENT.finditer(text))
  if not marks:
    return [text.strip()] if text.strip() else []
  ends = [mark.start() for mark in marks[1:]] + [len(text)]
  bodies = [text[mark.end() : end].strip() for mark, end in zip(marks, ends)]
  return [body for body in bodies[:top_k] if body]


def render(documents: Sequence[Document]) -> str:
  """The text that `split` reads as these documents, each a title line and a line of text.

  Line breaks inside a title or a text become spaces, and what a line of text begins with is
  dropped if it reads like the mark of a document.
  """
  lines = []
  for n, document in enumerate(documents, start=1):
    title, text = (' '.join(part.split()) for part in (document.title, document.text))
    lines.append(f'Doc {n}: {title}\n{_OWN_MARKS.sub("", text)}'.strip())
  return '\n'.join(lines)
