"""A language model plays the search engine: ZeroSearch (arXiv 2505.04588).

It is asked through an OpenAI-compatible endpoint (`retrieval.url`, as vLLM and SGLang serve it) for
`top_k` documents that are useful for the query, or noisy ones; `retrieval.noise_start` and
`noise_end` bound the share of noisy answers, which rises with training. Two modes:

  tuned      the model was trained to simulate: the request names the question and its accepted
             answers, and the word useful or noisy
  prompted   any instruction-following model: the same with an example; noisy requests tell neither
             question nor answer

The question is that of the row that asks, found by its id in `retrieval.questions` (the training
questions), never by its place in a batch. Mended besides: the number of documents asked for is
`top_k`; an endpoint that fails is a typed failure that the pool retries, not an empty answer.
Evaluate on a real retriever: what a simulator writes is not true, only alike in style.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import urllib.request
from collections.abc import Sequence
from typing import Any

from jaxsearch import config, questions
from jaxsearch.retrieval import _noise
from jaxsearch.types import Document, Outcome, Question, SearchRequest, SearchResult, UserError

MODES = ('prompted', 'tuned')
_THREADS = 10
_TEMPERATURE = 0.8
_TOKENS = 600
_DOCUMENT = re.compile(r'^\s*Doc(?:ument)?\s*(\d+)\s*[:.]\s*', re.MULTILINE)
_ASK = {
  True: (
    'You are a search engine. Write {k} short documents of about 30 words that a search for the '
    'query below would find and that are useful for it.'
  ),
  False: (
    'You are a search engine. Write {k} short documents of about 30 words that a search for the '
    'query below would find and that are noisy: on a related subject, without what is asked for.'
  ),
}
_EXAMPLE = {
  True: (
    'Query: capital of Norway\nDoc 1: Oslo is the capital of Norway and its largest city.\n'
    'Doc 2: The parliament of Norway sits in the capital, Oslo.\n'
  ),
  False: (
    'Query: capital of Norway\nDoc 1: Norway has a long coast with many deep fjords.\n'
    'Doc 2: Several towns have been important for the trade of the country.\n'
  ),
}


class Simulator:
  """An endpoint and the questions that its answers may know."""

  def __init__(self, settings: config.Retrieval):
    self._settings = settings
    self._questions = {q.id: q for q in questions.read(settings.questions)}
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Documents as the model writes them; a request that fails is `timeout` or `error`."""
    return list(self._threads.map(self._answer, requests))

  def _answer(self, request: SearchRequest) -> SearchResult:
    is_useful = not _noise.is_noisy(self._settings, request)
    question = self._questions.get(request.question_id)
    try:
      documents = tuple(
        self._documents(query, is_useful, question, request) for query in request.queries
      )
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
      is_late = isinstance(getattr(error, 'reason', error), TimeoutError)
      outcome = Outcome.TIMEOUT if is_late else Outcome.ERROR
      return SearchResult(outcome, message=f'{self._settings.url}: {error!r}')
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)

  def _documents(
    self, query: str, is_useful: bool, question: Question | None, request: SearchRequest
  ) -> tuple[Document, ...]:
    asked = prompt(self._settings.mode, query, is_useful, question, request.top_k)
    text = self._complete(asked, request.key)
    kind = 'useful' if is_useful else 'noisy'
    return tuple(
      Document(f'simulated-{kind}-{n}', query, body, 1.0 / n)
      for n, body in enumerate(split(text, request.top_k), start=1)
    )

  def _complete(self, text: str, key: int) -> str:
    body: dict[str, Any] = {
      'model': self._settings.model,
      'messages': [{'role': 'user', 'content': text}],
      'temperature': _TEMPERATURE,
      'max_tokens': _TOKENS,
      'seed': key % 2**31,
    }
    asked = urllib.request.Request(
      self._settings.url.rstrip('/') + '/chat/completions',
      json.dumps(body).encode(),
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(asked, timeout=self._settings.deadline_s) as reply:
      return json.loads(reply.read())['choices'][0]['message']['content']


def prompt(mode: str, query: str, is_useful: bool, question: Question | None, top_k: int) -> str:
  """What the model is asked.

  Args:
    mode: see the head of this file.
    query: what the policy wrote.
    is_useful: or noisy.
    question: of the row that asks; None if it is not known.
    top_k: documents wanted.
  """
  parts = [_ASK[is_useful].format(k=top_k)]
  if question is not None and (is_useful or mode == 'tuned'):
    golds = ' or '.join(question.golden_answers)
    parts.append(f'The user wants to know: {question.text} The answer is: {golds}.')
  if mode == 'prompted':
    parts.append(f'Example:\n{_EXAMPLE[is_useful]}')
  parts.append(f'Query: {query}\n{"Useful" if is_useful else "Noisy"} documents:')
  return '\n'.join(parts)


def split(text: str, top_k: int) -> list[str]:
  """The texts behind 'Doc 1:', 'Doc 2:', …, at most `top_k`; a text without any is one document."""
  marks = list(_DOCUMENT.finditer(text))
  if not marks:
    return [text.strip()] if text.strip() else []
  ends = [mark.start() for mark in marks[1:]] + [len(text)]
  bodies = [text[mark.end() : end].strip() for mark, end in zip(marks, ends)]
  return [body for body in bodies[:top_k] if body]


def open(config: config.Retrieval) -> Simulator:
  """Checks the settings; the endpoint is first asked by the first search.

  Raises:
    UserError: for an unknown mode, a missing url or a question file that cannot be read.
  """
  if config.mode not in MODES:
    raise UserError(f'retrieval.mode is {config.mode!r}; allowed: {", ".join(MODES)}.')
  if not config.url.startswith(('http://', 'https://')):
    raise UserError(
      f'retrieval.url is {config.url!r}; give the address of an OpenAI-compatible endpoint, such '
      'as http://localhost:6001/v1.'
    )
  return Simulator(config)
