"""The protocol of SSRL (arXiv 2508.10874): the policy writes its own information, nobody is asked.

  <think> … </think>
  <search> a query </search>
  <information> what the policy itself recalls </information>
  <think> … </think>
  <answer> the answer </answer>

A rollout is one generation. Whether the information is trained is a choice, `algo.untrained_span`:
the original leaves it out although the policy wrote it. Nothing stops a row but the end of text, so
no retriever is needed; with another protocol's tags the same policy can be given one.

Format, as in the original's code: the four pairs of tags only, at least two; thinking first, the
answer last; no empty pair, no placeholder; a search of one line, its information right behind it;
at most eight thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from jaxsearch import config
from jaxsearch.protocols import _contract, _prompts, _tags
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Response, SearchResult, Status

_INSTRUCTIONS = (
  'Answer the question below. First reason about it between <think> and </think>. If you need a '
  'fact, write a query between <search> and </search>, and right behind it what you know about it '
  'between <information> and </information>; then reason again. In the end give the answer, and '
  'nothing but the answer, between <answer> and </answer>.\nQuestion: {question}\n'
)
_NAMES = ('think', 'search', 'information', 'answer')
_TAG = re.compile(r'</?(\w+)>')
_BLOCK = re.compile(r'\s*<(\w+)>(.*?)</\1>\s*', re.DOTALL)
_PLACEHOLDERS = ('your query', 'your thoughts', 'your answer', 'your information')
_MOST_THOUGHTS = 8


def open(config: config.Protocol, tokenizer: Tokenizer) -> Ssrl:
  """Makes the protocol with the prompt that `config` asks for; raises as `_prompts.make` does."""
  return Ssrl(_prompts.make(config, tokenizer, base=_INSTRUCTIONS, instruct=_INSTRUCTIONS))


class Ssrl(_tags.Tagged):
  """See `_contract.Protocol`."""

  stops: ClassVar[tuple[str, ...]] = ()
  tags: ClassVar[Mapping[str, tuple[str, str]]] = {n: (f'<{n}>', f'</{n}>') for n in _NAMES}
  patterns: ClassVar[Mapping[str, re.Pattern[bytes]]] = {
    {'search': 'query'}.get(n, n): _tags.between(f'<{n}>', f'</{n}>') for n in _NAMES
  }
  observed: ClassVar[str] = ''

  def at_pause(self, segment: bytes, stop: str | None) -> _contract.Finish:
    """The end, at the end of text or of the turn's tokens."""
    del segment
    return _contract.Finish(Status.EOS if stop else Status.POLICY_TOKEN_CAP)

  def observation(self, result: SearchResult, shown: int) -> str:
    """What the policy is to recall, for demonstrations: the texts of the documents."""
    documents = [d for found in result.documents for d in found[:shown]]
    said = ' '.join(d.text for d in documents) or 'Nothing comes to mind.'
    return f'\n<information> {said} </information>\n'

  def is_well_formed(self, response: Response) -> bool:
    """See the head of this file."""
    text = self.read(response).strip()
    blocks = [match.groups() for match in _BLOCK.finditer(text)]
    names = [name for name, _ in blocks]
    searches = [i for i, name in enumerate(names) if name == 'search']
    return (
      len(blocks) >= 2
      and set(_TAG.findall(text)) <= set(_NAMES)
      and len(_TAG.findall(text)) == 2 * len(blocks)
      and text.startswith('<think>')
      and text.endswith('</answer>')
      and names[0] == 'think'
      and names[-1] == 'answer'
      and all(body.strip() for _, body in blocks)
      and not any(words in text.lower() for words in _PLACEHOLDERS)
      and all('\n' not in blocks[i][1].strip() for i in searches)
      and all(names[i + 1 : i + 2] == ['information'] for i in searches)
      and names.count('information') == len(searches)
      and names.count('think') <= _MOST_THOUGHTS
    )

  def render_step(self, step: Mapping[str, str]) -> str:
    """<think> and <search>, or <think> and <answer>: what the policy is to write."""
    name = 'search' if 'search' in step else 'answer'
    return f'<think> {step["think"]} </think>\n<{name}> {step[name]} </{name}>'
