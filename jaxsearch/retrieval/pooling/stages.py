"""The stages of a search, each of which has processes of its own.

  encode   queries -> vectors, where the backend searches by vectors (it has `open_encoder`)
  search   requests -> documents: the backend
  rerank   documents -> the best of them, by a cross-encoder (`retrieval.reranker`)

Encoding takes longest by far and wants many queries at once; searching wants many small processes
that share a mapped index. Apart, each gets what it wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsearch import config, plugins
from jaxsearch.retrieval import reranking
from jaxsearch.retrieval.pooling import checks
from jaxsearch.retrieval.pooling.entry import Entry
from jaxsearch.types import SearchResult

# A worker answers each request of its batch with what the stage makes, or with a failure.
Work = Callable[[Sequence[Any]], list[Any]]


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage.

  Attributes:
    name: 'encode', 'search' or 'rerank'.
    processes: that do it.
  """

  name: str
  processes: int

  @property
  def uses_jax(self) -> bool:
    """Whether its processes run a model."""
    return self.name != 'search'


def stages(settings: config.Retrieval) -> list[Stage]:
  """The stages that a search passes, in order; reads the backend's file without importing it.

  Raises:
    UserError: for an unknown backend.
  """
  encodes = 'open_encoder' in plugins.functions('retrieval.backends', settings.backend)
  found = [Stage('encode', settings.encoders)] if encodes else []
  found.append(Stage('search', settings.workers))
  if settings.reranker:
    found.append(Stage('rerank', settings.encoders))
  return found


def message(stage: Stage, entry: Entry, settings: config.Retrieval) -> Any:
  """What a worker of the stage is told of an entry."""
  if stage.name == 'rerank':
    return entry.request, entry.found
  if stage.name == 'encode':
    return entry.request
  if entry.embeddings is None and not settings.reranker:
    return entry.request
  wanted = max(entry.request.top_k, settings.candidates if settings.reranker else 0)
  return dataclasses.replace(entry.request, top_k=wanted, embeddings=entry.embeddings)


def take(stage: Stage, entry: Entry, answer: np.ndarray | SearchResult) -> None:
  """Notes in the entry what the stage made of it."""
  if stage.name == 'encode':
    entry.embeddings = answer
  else:
    entry.found = answer


def open(name: str, settings: config.Retrieval) -> tuple[Work, str]:
  """What a worker process of stage `name` does, and what that depends on (see `identity`).

  Raises:
    UserError: if index, encoder or reranker cannot be opened.
  """
  if name == 'rerank':
    reranker = reranking.open(settings)
    return lambda asked: checks.reranked(reranker, asked), reranker.identity
  module = plugins.load('retrieval.backends', settings.backend)
  if name == 'encode':
    encoder = module.open_encoder(settings)
    return lambda requests: checks.vectors(encoder, requests), encoder.identity
  backend = module.open(settings)
  return lambda requests: checks.answers(backend, requests), backend.identity


def identity(of_stages: Mapping[str, str], settings: config.Retrieval) -> str:
  """Names all that answers depend on besides queries and `top_k`; '' if there is more.

  Args:
    of_stages: what each stage depends on; '' if answers of that stage depend on more.
    settings: of retrieval.
  """
  if not all(of_stages.values()):
    return ''
  parts = [settings.backend, *(of_stages[name] for name in sorted(of_stages))]
  return ' '.join([*parts, str(settings.candidates)] if settings.reranker else parts)
