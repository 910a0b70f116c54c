"""The protocol of Search-R1 (arXiv 2503.09516): think, search, information, answer.

  <think> … </think>
  <search> a query </search>                            the row pauses here

  <information>Doc 1(Title: …) text                     observation
  Doc 2(Title: …) text
  </information>

  <think> … </think>
  <answer> the answer </answer>                         the row ends here

What is neither a search nor an answer, or runs into `rollout.turn_tokens`, gets a notice, which
counts as a search. After `rollout.max_searches` of both, one more generation may answer; it cannot
search. ZeroSearch (arXiv 2505.04588) has the same protocol.

Mended: sampled ids are kept as they are, not cut at a tag and tokenised anew; the answer is read
from the response alone (the original's prompt holds an example that it scores); the information
tag is always closed. The wording of prompt and notice is our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from jaxsearch import config
from jaxsearch.protocols import _contract, _prompts, _tags
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Outcome, Response, SearchResult, Status

_INSTRUCTIONS = (
  'Answer the question below. Whenever you learn something new, first reason about it between '
  '<think> and </think>. If you find that you lack knowledge, call a search engine with <search> '
  'your query </search>; it shows its best results between <information> and </information>. '
  'Search as often as you like. As soon as nothing is missing, give the answer, and nothing but '
  'the answer, between <answer> and </answer>.\nQuestion: {question}\n'
)
_NOTICE = (
  '\nThat was neither a search nor an answer. To search, I write the query between <search> and '
  '</search>. To answer, I write the answer between <answer> and </answer>. Once more.\n'
)
_BLOCKS = re.compile(r'<(think|search|information|answer)>(.*?)</\1>', re.DOTALL)
# What may follow a block.
_ORDER = {
  '': ('think',),
  'think': ('search', 'answer'),
  'search': ('information',),
  'information': ('think',),
}


def open(config: config.Protocol, tokenizer: Tokenizer) -> SearchR1:
  """Makes the protocol with the prompt that `config` asks for; raises as `_prompts.make` does."""
  return SearchR1(_prompts.make(config, tokenizer, base=_INSTRUCTIONS, instruct=_INSTRUCTIONS))


class SearchR1(_tags.Tagged):
  """See `_contract.Protocol`."""

  stops: ClassVar[tuple[str, ...]] = ('</search>', '</answer>')
  tags: ClassVar[Mapping[str, tuple[str, str]]] = {
    'think': ('<think>', '</think>'),
    'search': ('<search>', '</search>'),
    'information': ('<information>', '</information>'),
    'answer': ('<answer>', '</answer>'),
  }
  patterns: ClassVar[Mapping[str, re.Pattern[bytes]]] = {
    'think': _tags.between('<think>', '</think>'),
    'query': _tags.innermost('<search>', '</search>'),
    'answer': _tags.innermost('<answer>', '</answer>'),
  }
  observed: ClassVar[str] = '<information></information>'

  def at_pause(
    self, segment: bytes, stop: str | None
  ) -> _contract.Search | _contract.Finish | _contract.Notice:
    """A search, the end at an answer, a notice for anything else."""
    if stop == '</search>':
      search = _tags.search(segment, stop, self.patterns['query'])
      return search if search.queries else _contract.Notice(_NOTICE)
    if stop == '</answer>' and self.patterns['answer'].search(segment):
      return _contract.Finish(Status.ANSWER)
    return _contract.Notice(_NOTICE)

  def observation(self, result: SearchResult, shown: int) -> str:
    """The information pair, closed whatever is shown."""
    documents = [d for found in result.documents for d in found[:shown]]
    lines = (f'Doc {n}(Title: {d.title}) {d.text}' for n, d in enumerate(documents, start=1))
    empty = 'No query was given.' if result.outcome is Outcome.BAD_QUERY else 'Nothing was found.'
    return f'\n\n<information>{chr(10).join(lines) or empty}</information>\n\n'

  def is_well_formed(self, response: Response) -> bool:
    """The format of Search-R1's later reward: blocks in order, nothing but space between them.

    think, then search and information and think any number of times, then answer, then the end.
    """
    text, before, place = self.read(response), '', 0
    for block in _BLOCKS.finditer(text):
      if text[place : block.start()].strip() or block[1] not in _ORDER.get(before, ()):
        return False
      before, place = block[1], block.end()
    return before == 'answer' and not text[place:].strip()

  def render_step(self, step: Mapping[str, str]) -> str:
    """<think> and <search>, or <think> and <answer>: what the policy is to write."""
    name = 'search' if 'search' in step else 'answer'
    return f'<think> {step["think"]} </think>\n<{name}> {step[name]} </{name}>'
