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

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from jaxsearch import config
from jaxsearch.protocols import _contract
from jaxsearch.text import stops
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import (
  Kind,
  Outcome,
  Question,
  Response,
  SearchResult,
  Status,
  UserError,
)

_INSTRUCTIONS = (
  'The assistant answers the question of the user. It thinks first, between <think> and </think>. '
  'If it lacks a fact, it may search: it writes a query between <search> and </search> and is '
  'shown what was found between <result> and </result>. It may think and search again as often as '
  'it needs to, or not search at all. At the end it gives a short answer in a box between '
  '<answer> and </answer>, that is: <answer> \\boxed{...} </answer>'
)
_BASE_PROMPT = _INSTRUCTIONS + '\nUser: {question}\nAssistant:'
_QUESTION = '{question}'
_SPANS = {
  'think': re.compile(rb'<think>(.*?)</think>', re.DOTALL),
  'query': re.compile(rb'<search>((?:(?!<search>).)*?)</search>', re.DOTALL),
  'answer': re.compile(rb'<answer>(.*?)</answer>', re.DOTALL),
}


def open(config: config.Protocol, tokenizer: Tokenizer) -> Research:
  """Makes the protocol with the prompt that `config` asks for.

  Raises:
    UserError: if the form is unknown, the prompt file is missing or has no (base) or has a
      (instruct) {question}, or the tokenizer has no usable chat template (instruct).
  """
  if config.form == 'base':
    text = _read_prompt(config.prompt, _BASE_PROMPT)
    if _QUESTION not in text:
      raise UserError(
        f'The prompt file {config.prompt!r} has no {_QUESTION}. Write {_QUESTION} where the '
        'question belongs.'
      )
    # Some tokenizers (Llama 3) begin every text with a special token.
    head = np.asarray(tokenizer.hf.encode(''), np.int32)
    return Research(tokenizer, head, text, np.zeros(0, np.int32))
  if config.form == 'instruct':
    return Research(tokenizer, *_chat_prompt(config.prompt, tokenizer))
  raise UserError(f'protocol.form is {config.form!r}; choose base or instruct.')


@dataclasses.dataclass(frozen=True, eq=False)
class Research:
  """See `_contract.Protocol`.

  Attributes:
    tokenizer: of the policy.
    head, tail: int32 ids around the part of the prompt that holds the question.
    body: that part, with {question}.
  """

  tokenizer: Tokenizer
  head: np.ndarray
  body: str
  tail: np.ndarray

  stops: ClassVar[tuple[str, ...]] = ('</search>',)
  tags: ClassVar[Mapping[str, tuple[str, str]]] = {
    'think': ('<think>', '</think>'),
    'search': ('<search>', '</search>'),
    'result': ('<result>', '</result>'),
    'answer': ('<answer>', '</answer>'),
  }

  def prompt_ids(self, question: Question) -> np.ndarray:
    """int32 [n]; a special token spelt in the question stays plain text."""
    body = self.tokenizer.encode(self.body.replace(_QUESTION, question.text))
    return np.concatenate([self.head, body, self.tail])

  def at_pause(self, segment: bytes, stop: str) -> _contract.Search | _contract.Finish:
    """The query is what stands between the last <search> and the </search> that stopped."""
    if stop not in self.stops:
      return _contract.Finish(Status.EOS)
    read = segment[: stops.stop_byte(stop, segment)]
    for name, start, end in self.spans(read):
      query = segment[start:end].decode('utf-8', errors='replace').strip()
      if name == 'query' and query:
        return _contract.Search((query,), ((name, start, end),))
    return _contract.Search(queries=())

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

  def spans(self, segment: bytes) -> tuple[tuple[str, int, int], ...]:
    """Contents of the closed think, search (named query) and answer pairs."""
    found = [
      (name, *match.span(1))
      for name, pattern in _SPANS.items()
      for match in pattern.finditer(segment)
    ]
    return tuple(sorted(found, key=lambda span: span[1]))

  def answer(self, response: Response) -> str | None:
    """Contents of the last box in the last closed answer pair, well-formed response or not."""
    text = _policy_text(response)
    end = text.rfind('</answer>')
    start = text.rfind('<answer>', 0, max(end, 0))
    if start < 0:
      return None
    return _last_box(text[start + len('<answer>') : end])

  def is_well_formed(self, response: Response) -> bool:
    """ReSearch's format gate; text outside the tags is not looked at.

    As many <think> as </think>, at least one; one <answer> … </answer> with a box in it; after
    each <search> the next </search>, <result> and </result> follow in this order.
    """
    text = _policy_text(response)
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


def _read_prompt(path: str, default: str) -> str:
  if not path:
    return default
  try:
    return pathlib.Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'protocol.prompt names {path!r}, which cannot be read: {error}. Give a text file, or leave '
      'it empty for the prompt of the protocol.'
    ) from error


def _chat_prompt(path: str, tokenizer: Tokenizer) -> tuple[np.ndarray, str, np.ndarray]:
  """(head, body, tail) of the chat template with the question as the user's message.

  The template is rendered once. Its special tokens are read as such only outside the stretch
  between the last one before the question and the first one after it.
  """
  system = _read_prompt(path, _INSTRUCTIONS)
  if _QUESTION in system:
    raise UserError(
      f'The prompt file {path!r} has {_QUESTION}; in the instruct form it is the system message '
      'and the question is the message of the user. Remove it, or set protocol.form to base.'
    )
  if not tokenizer.hf.chat_template:
    raise UserError(
      'protocol.form is instruct, but the tokenizer has no chat template. Use the tokenizer of an '
      'instruction-tuned model, or set protocol.form to base.'
    )
  messages = [{'role': 'system', 'content': system}, {'role': 'user', 'content': _QUESTION}]
  text = tokenizer.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
  if text.count(_QUESTION) != 1:
    raise UserError("The tokenizer's chat template does not show the user's message exactly once.")
  before, after = text.split(_QUESTION)
  added = tokenizer.plain.get_added_tokens_decoder().values()
  special = [token.content for token in added if token.special]
  cut = max((before.rfind(s) + len(s) for s in special if s in before), default=0)
  resume = min((after.find(s) for s in special if s in after), default=len(after))
  head, tail = (
    np.asarray(tokenizer.hf.encode(part, add_special_tokens=False), np.int32)
    for part in (before[:cut], after[resume:])
  )
  return head, before[cut:] + _QUESTION + after[:resume], tail


def _policy_text(response: Response) -> str:
  """What the policy wrote, with an empty result pair for each observation."""
  replaced = {Kind.PROMPT: '', Kind.OBSERVATION: '<result></result>'}
  return ''.join(replaced.get(kind, text) for kind, text in response.parts)


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
