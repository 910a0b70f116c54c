"""The prompt of a protocol: one plain string, or the tokenizer's chat template."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from jaxsearch import config
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import Question, UserError

_QUESTION = '{question}'


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A prompt with a place for the question.

  Attributes:
    tokenizer: of the policy.
    head, tail: int32 ids around the part that holds the question.
    body: that part, with {question}.
  """

  tokenizer: Tokenizer
  head: np.ndarray
  body: str
  tail: np.ndarray

  def ids(self, question: Question) -> np.ndarray:
    """int32 [n]; a special token spelt in the question stays plain text."""
    body = self.tokenizer.encode(self.body.replace(_QUESTION, question.text))
    return np.concatenate([self.head, body, self.tail])


def make(
  config: config.Protocol, tokenizer: Tokenizer, *, base: str, instruct: str, prefill: str = ''
) -> Prompt:
  """The prompt in the form that `config` asks for, with its own text if it names a file.

  Args:
    config: form and file.
    tokenizer: of the policy.
    base: text of the base form, with {question}.
    instruct: of the instruct form: the system message, or, with {question} in it, the message of
      the user, without a system message.
    prefill: what the policy's response begins with in the instruct form; it is part of the prompt.

  Raises:
    UserError: if the form is unknown, the prompt file is missing or (base) has no {question}, or
      the tokenizer has no usable chat template (instruct).
  """
  if config.form == 'base':
    text = _read(config.prompt, base)
    if _QUESTION not in text:
      raise UserError(
        f'The prompt file {config.prompt!r} has no {_QUESTION}. Write {_QUESTION} where the '
        'question belongs.'
      )
    # Some tokenizers (Llama 3) begin every text with a special token.
    head = np.asarray(tokenizer.hf.encode(''), np.int32)
    return Prompt(tokenizer, head, text, np.zeros(0, np.int32))
  if config.form == 'instruct':
    return _chat(_read(config.prompt, instruct), tokenizer, prefill)
  raise UserError(f'protocol.form is {config.form!r}; choose base or instruct.')


def _read(path: str, default: str) -> str:
  if not path:
    return default
  try:
    return pathlib.Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'protocol.prompt names {path!r}, which cannot be read: {error}. Give a text file, or leave '
      'it empty for the prompt of the protocol.'
    ) from error


def _chat(text: str, tokenizer: Tokenizer, prefill: str) -> Prompt:
  """The chat template with the question in the user's message.

  The template is rendered once. Its special tokens are read as such only outside the stretch
  between the last one before the question and the first one after it.
  """
  if not tokenizer.hf.chat_template:
    raise UserError(
      'protocol.form is instruct, but the tokenizer has no chat template. Use the tokenizer of an '
      'instruction-tuned model, or set protocol.form to base.'
    )
  if _QUESTION in text:
    messages = [{'role': 'user', 'content': text}]
  else:
    messages = [{'role': 'system', 'content': text}, {'role': 'user', 'content': _QUESTION}]
  shown = tokenizer.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
  if shown.count(_QUESTION) != 1:
    raise UserError("The tokenizer's chat template does not show the user's message exactly once.")
  before, after = shown.split(_QUESTION)
  added = tokenizer.plain.get_added_tokens_decoder().values()
  special = [token.content for token in added if token.special]
  cut = max((before.rfind(s) + len(s) for s in special if s in before), default=0)
  resume = min((after.find(s) for s in special if s in after), default=len(after))
  head, tail = (
    np.asarray(tokenizer.hf.encode(part, add_special_tokens=False), np.int32)
    for part in (before[:cut], after[resume:])
  )
  tail = np.concatenate([tail, tokenizer.encode(prefill)])
  return Prompt(tokenizer, head, before[cut:] + _QUESTION + after[:resume], tail)
