"""A policy of our own plays the search engine: ZeroSearch (arXiv 2505.04588) without an endpoint.

`retrieval.simulator` is a policy folder, as `jaxsearch warmstart --task=simulator` makes it from
what `jaxsearch collect` wrote down. It is asked as `retrieval/_simulation.py` says, and the engine
of the rollouts writes its answers, on the CPU in the worker process: `retrieval.batch` slots, in
which queries follow each other without waiting for the slowest one.

An answer depends on the request (its key, its question, its queries) and the weights alone. It ends
with the end of text or after `retrieval.answer_tokens`; what was cut there is used as it is, as in
the original. Nothing written is outcome `empty`, a prompt that leaves no room to write `bad_query`.
Evaluate on a real retriever: what a simulator writes is not true, only alike in style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxsearch import config
from jaxsearch.retrieval import _simulation
from jaxsearch.types import Outcome, SearchRequest, SearchResult

# (prompt, key) of each text -> the texts; None where a prompt left no room: `rollout/writer.py`.
Write = Callable[[Sequence[tuple[str, tuple[int, ...]]]], list[str | None]]


class EngineSimulator:
  """What writes, and the questions that its answers may know."""

  identity = ''

  def __init__(self, asker: _simulation.Asker, write: Write):
    self._asker, self._write = asker, write

  def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
    """Documents as the policy writes them, for the queries of all requests together."""
    prompts = [self._asker.prompts(request) for request in requests]
    asked = [
      (prompt, (request.key, query))
      for request, own in zip(requests, prompts, strict=True)
      for query, prompt in enumerate(own)
    ]
    texts = iter(self._write(asked))
    return [self._read(request, [next(texts) for _ in request.queries]) for request in requests]

  def _read(self, request: SearchRequest, texts: Sequence[str | None]) -> SearchResult:
    documents = tuple(
      self._asker.documents(request, query, text or '')
      for query, text in zip(request.queries, texts, strict=True)
    )
    if any(documents):
      return SearchResult(Outcome.OK, documents)
    if None in texts:
      return SearchResult(
        Outcome.BAD_QUERY, message='the prompt for the simulator fills retrieval.context_tokens'
      )
    return SearchResult(Outcome.EMPTY, documents)


def open(config: config.Retrieval) -> EngineSimulator:
  """Opens the policy and compiles what it needs.

  Raises:
    UserError: for an unknown mode, or a prompt, question file or policy folder that cannot be read.
  """
  asker = _simulation.Asker(config)
  # JAX and the engine, a layer above, enter the worker process of this backend and no other: here,
  # where it opens, the worker is a program that may know every layer.
  from jaxsearch.rollout import writer

  opened = writer.open(
    config.simulator,
    slots=config.batch,
    context_tokens=config.context_tokens,
    answer_tokens=config.answer_tokens,
    temperature=_simulation.TEMPERATURE,
  )
  return EngineSimulator(asker, opened.write)
