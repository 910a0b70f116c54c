"""The protocol of R1-Searcher (arXiv 2503.05592): markers of query and documents, begun thinking.

  <think>                                               end of the prompt
  … <|begin_of_query|> keywords <|end_of_query|>        the row pauses here

  <|begin_of_documents|>                                observation
  (1)text of the first document
  (2)text of the second document
  <|end_of_documents|>

  … </think>
  <answer> the answer </answer>

The markers are plain text, as in the released code (the paper calls them special tokens). Mended:
ids are never tokenised anew, and observations are known by who wrote them, not by matching ids, so
that documents which the policy invents are its own text, are trained, and break the format. The
wording of the prompt is our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from jaxsearch import config
from jaxsearch.protocols import _contract, _prompts, _tags
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Response, SearchResult, Status

_QUERY = ('<|begin_of_query|>', '<|end_of_query|>')
_DOCUMENTS = ('<|begin_of_documents|>', '<|end_of_documents|>')
_INSTRUCTIONS = (
  'The User asks a question and the Assistant solves it. The Assistant first reasons, between '
  '<think> and </think>, and then gives the final answer between <answer> and </answer>. While '
  'reasoning it may look up what it is not sure of: it writes keywords between '
  f'{_QUERY[0]} and {_QUERY[1]}, for one fact at a time, and is shown documents between '
  f'{_DOCUMENTS[0]} and {_DOCUMENTS[1]}.'
)


def open(config: config.Protocol, tokenizer: Tokenizer) -> R1Searcher:
  """Makes the protocol with the prompt that `config` asks for; raises as `_prompts.make` does."""
  base = _INSTRUCTIONS + '\n\nUser: {question}\nAssistant: <think>'
  return R1Searcher(
    _prompts.make(config, tokenizer, base=base, instruct=_INSTRUCTIONS, prefill='<think>')
  )


class R1Searcher(_tags.Tagged):
  """See `_contract.Protocol`."""

  stops: ClassVar[tuple[str, ...]] = (_QUERY[1],)
  tags: ClassVar[Mapping[str, tuple[str, str]]] = {
    'think': ('<think>', '</think>'),
    'search': _QUERY,
    'documents': _DOCUMENTS,
    'answer': ('<answer>', '</answer>'),
  }
  patterns: ClassVar[Mapping[str, re.Pattern[bytes]]] = {
    'query': _tags.innermost(*_QUERY),
    'answer': _tags.between('<answer>', '</answer>'),
  }
  observed: ClassVar[str] = ''

  def at_pause(self, segment: bytes, stop: str | None) -> _contract.Search | _contract.Finish:
    """A search, without double quotes and with single spaces; an empty one ends the trajectory."""
    if stop is None:
      return _contract.Finish(Status.POLICY_TOKEN_CAP)
    if stop not in self.stops:
      return _contract.Finish(Status.EOS)
    search = _tags.search(segment, stop, self.patterns['query'])
    queries = tuple(' '.join(query.replace('"', '').split()) for query in search.queries)
    if not any(queries):
      return _contract.Finish(Status.ABORTED)
    return _contract.Search(queries, search.spans)

  def observation(self, result: SearchResult, shown: int) -> str:
    """Numbered documents between their markers, or the word None."""
    documents = [d for found in result.documents for d in found[:shown]]
    lines = (f'({n}){d.title}\n{d.text}' for n, d in enumerate(documents, start=1))
    return f'\n\n{_DOCUMENTS[0]}\n{chr(10).join(lines) or "None"}\n{_DOCUMENTS[1]}\n\n'

  def is_well_formed(self, response: Response) -> bool:
    """One </think> and no <think>, one answer pair, queries closed, no invented documents."""
    text = self.read(response)
    counts = [text.count(tag) for tag in ('<think>', '</think>', '<answer>', '</answer>')]
    has_markers = any(marker in text for marker in _DOCUMENTS)
    return (
      counts == [0, 1, 1, 1] and text.count(_QUERY[0]) == text.count(_QUERY[1]) and not has_markers
    )

  def render_step(self, step: Mapping[str, str]) -> str:
    """A thought and a query, or a thought, </think> and the answer: what the policy is to write."""
    if 'search' in step:
      return f' {step["think"]} {_QUERY[0]} {step["search"]} {_QUERY[1]}'
    return f' {step["think"]} </think>\n<answer> {step["answer"]} </answer>'
