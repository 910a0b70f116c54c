"""A language model behind an endpoint plays the search engine: ZeroSearch (arXiv 2505.04588).

It is asked through an OpenAI-compatible endpoint (`retrieval.url`, as vLLM and SGLang serve it) for
`top_k` documents that are useful for the query, or noisy ones; `retrieval.noise_start` and
`noise_end` bound the share of noisy answers, which rises with training. `retrieval/_simulation.py`
has what it is told.

Mended: the question is that of the row that asks; the number of documents asked for is `top_k`; an
endpoint that fails is a typed failure that the pool retries, not an empty answer. Evaluate on a
real retriever: what a simulator writes is not true, only alike in style.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import urllib.request
from collections.abc import Sequence
from typing import Any

from jaxsearch import config
from jaxsearch.retrieval import _simulation
from jaxsearch.types import Outcome, SearchRequest, SearchResult, UserError

_THREADS = 10


class Simulator:
  """An endpoint and the questions that its answers may know."""

  identity = ''

  def __init__(self, settings: config.Retrieval):
    self._settings = settings
    self._asker = _simulation.Asker(settings)
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Documents as the model writes them; a request that fails is `timeout` or `error`."""
    return list(self._threads.map(self._answer, requests))

  def _answer(self, request: SearchRequest) -> SearchResult:
    try:
      documents = tuple(
        self._asker.documents(request, query, self._complete(prompt, request.key))
        for query, prompt in zip(request.queries, self._asker.prompts(request), strict=True)
      )
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
      is_late = isinstance(getattr(error, 'reason', error), TimeoutError)
      outcome = Outcome.TIMEOUT if is_late else Outcome.ERROR
      return SearchResult(outcome, message=f'{self._settings.url}: {error!r}')
    return SearchResult(Outcome.OK if any(documents) else Outcome.EMPTY, documents)

  def _complete(self, text: str, key: int) -> str:
    body: dict[str, Any] = {
      'model': self._settings.model,
      'messages': [{'role': 'user', 'content': text}],
      'temperature': _simulation.TEMPERATURE,
      'max_tokens': self._settings.answer_tokens,
      'seed': key % 2**31,
    }
    asked = urllib.request.Request(
      self._settings.url.rstrip('/') + '/chat/completions',
      json.dumps(body).encode(),
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(asked, timeout=self._settings.deadline_s) as reply:
      text = json.loads(reply.read())['choices'][0]['message']['content']
    if not isinstance(text, str):
      raise TypeError(f'content is {text!r}, not a text')
    return text


def open(config: config.Retrieval) -> Simulator:
  """Checks the settings; the endpoint is first asked by the first search.

  Raises:
    UserError: for an unknown mode, a broken prompt file, a missing url or a question file that
      cannot be read.
  """
  _simulation.wording(config)
  if not config.url.startswith(('http://', 'https://')):
    raise UserError(
      f'retrieval.url is {config.url!r}; give the address of an OpenAI-compatible endpoint, such '
      'as http://localhost:6001/v1.'
    )
  return Simulator(config)
