"""The protocol of ReSearch (arXiv 2503.19470): think, search, result, answer, boxed answer.

  <think> … </think>
  <search> a query </search>          the row pauses here
  <result>                            observation
  Title
  text of the first document

  Title
  text of the second document
  </result>
  <think> … </think>
  <answer> \\boxed{the answer} </answer>

The wording of the prompt is our own; `config.prompt` gives another one, so that a checkpoint can
be used with the very prompt it was trained with. Format and answer are read from what the policy
wrote, every observation standing there as an empty result pair: tags in a document are text.
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
  'The assistant answers the question of the user. It thinks first, between <think> and </think>. '
  'If it lacks a fact, it may search: it writes a query between <search> and </search> and is '
  'shown what was found between <result> and </result>. It may think and search again as often as '
  'it needs to, or not search at all. At the end it gives a short answer in a box between '
  '<answer> and </answer>, that is: <answer> \\boxed{...} </answer>'
)
_BASE_PROMPT = _INSTRUCTIONS + '\nUser: {question}\nAssistant:'


def open(config: config.Protocol, tokenizer: Tokenizer) -> Research:
  """Makes the protocol with the prompt that `config` asks for; raises as `_prompts.make` does."""
  return Research(_prompts.make(config, tokenizer, base=_BASE_PROMPT, instruct=_INSTRUCTIONS))


class Research(_tags.Tagged):
  """See `_contract.Protocol`."""

  stops: ClassVar[tuple[str, ...]] = ('</search>',)
  tags: ClassVar[Mapping[str, tuple[str, str]]] = {
    'think': ('<think>', '</think>'),
    'search': ('<search>', '</search>'),
    'result': ('<result>', '</result>'),
    'answer': ('<answer>', '</answer>'),
  }
  patterns: ClassVar[Mapping[str, re.Pattern[bytes]]] = {
    'think': _tags.between('<think>', '</think>'),
    'query': _tags.innermost('<search>', '</search>'),
    'answer': _tags.between('<answer>', '</answer>'),
  }
  observed: ClassVar[str] = '<result></result>'

  def at_pause(self, segment: bytes, stop: str | None) -> _contract.Search | _contract.Finish:
    """The query is what stands between the last <search> and the </search> that stopped."""
    if stop is None:
      return _contract.Finish(Status.POLICY_TOKEN_CAP)
    if stop not in self.stops:
      return _contract.Finish(Status.EOS)
    return _tags.search(segment, stop, self.patterns['query'])

  def observation(self, result: SearchResult, shown: int) -> str:
    """The result pair, closed whatever is shown; a line of notice where nothing was found."""
    documents = [d for found in result.documents for d in found[:shown]]
    if documents:
      body = '\n\n'.join(f'{d.title}\n{d.text}'.strip() for d in documents)
    elif result.outcome is Outcome.BAD_QUERY:
      body = 'No query was given.'
    else:
      body = 'Nothing was found.'
    return f'\n<result>\n{body}\n</result>\n'

  def answer(self, response: Response) -> str | None:
    """Contents of the last box in the last closed answer pair, well-formed response or not."""
    said = self.said(response)
    return None if said is None else _last_box(said)

  def is_well_formed(self, response: Response) -> bool:
    """ReSearch's format gate; text outside the tags is not looked at.

    As many <think> as </think>, at least one; one <answer> … </answer> with a box in it; after
    each <search> the next </search>, <result> and </result> follow in this order.
    """
    text = self.read(response)
    thoughts = text.count('<think>')
    if not thoughts or text.count('</think>') != thoughts:
      return False
    if text.count('<answer>') != 1 or text.count('</answer>') != 1:
      return False
    opening, closing = text.index('<answer>'), text.index('</answer>')
    answer = text[opening : max(opening, closing)]
    return _searches_are_closed(text) and '\\boxed{' in answer and '}' in answer

  def render_step(self, step: Mapping[str, str]) -> str:
    """<think> and <search>, or <think> and a boxed <answer>: what the policy is to write."""
    if 'search' in step:
      action = f'<search> {step["search"]} </search>'
    else:
      action = f'<answer> \\boxed{{ {step["answer"]} }} </answer>'
    return f'<think> {step["think"]} </think>\n{action}'


def _searches_are_closed(text: str) -> bool:
  at = 0
  while (at := text.find('<search>', at)) >= 0:
    closing = text.find('</search>', at)
    opened = text.find('<result>', at)
    closed = text.find('</result>', opened)
    if not at < closing < opened < closed:
      return False
    at = closed
  return True


def _last_box(text: str) -> str | None:
  r"""Contents of the last \boxed{…}, braces matched, or of the last '\boxed …' up to a $."""
  if '\\boxed ' in text:
    return text.rpartition('\\boxed ')[2].partition('$')[0].strip()
  start = text.rfind('\\boxed')
  if start < 0 or not text.startswith('{', start + len('\\boxed')):
    return None
  start += len('\\boxed{')
  depth = 1
  for place in range(start, len(text)):
    depth += {'{': 1, '}': -1}.get(text[place], 0)
    if depth == 0:
      return text[start:place].strip()
  return None
