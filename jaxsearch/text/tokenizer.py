"""A Hugging Face byte-level BPE tokenizer that also knows the bytes of every token.

Tags are found by their bytes, whatever tokens they are spread over, so the table
`Tokenizer.token_bytes` is as much a part of the tokenizer as its merges.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import types as pytypes
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from jaxsearch.types import UserError

if TYPE_CHECKING:
  import transformers

_END_OF_TEXT = '<|endoftext|>'


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """What `load` returns.

  Attributes:
    hf: the tokenizer as the transformers library has it; it renders chat templates.
    plain: the same merges, but deaf to special tokens: documents and questions are untrusted.
    token_bytes: bytes of each id; b'' for special tokens and for ids without a token.
    eos_ids: ids that end a response.
  """

  hf: transformers.PreTrainedTokenizerFast
  plain: tokenizers.Tokenizer
  token_bytes: tuple[bytes, ...]
  eos_ids: tuple[int, ...]

  @property
  def vocab_size(self) -> int:
    """Number of ids that the tokenizer knows; a model may have more."""
    return len(self.token_bytes)

  def encode(self, text: str) -> np.ndarray:
    """int32 [n]: adds no special token and reads none, even where `text` spells one."""
    return np.asarray(self.plain.encode(text, add_special_tokens=False).ids, np.int32)

  def encode_whole(self, text: str) -> np.ndarray:
    """int32 [n]: `encode` behind the special ids, if any, that begin every text (Llama 3)."""
    return np.concatenate([np.asarray(self.hf.encode(''), np.int32), self.encode(text)])

  def bytes_of(self, ids: Sequence[int] | np.ndarray) -> bytes:
    """The bytes that `ids` stand for; special tokens and ids without a token stand for none."""
    return b''.join(self.token_bytes[i] for i in ids if i < len(self.token_bytes))

  def range_of(self, ids: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """(first, last): `ids[first:last]` are those that hold a byte of the range [start, stop)."""
    lengths = [len(self.token_bytes[i]) if i < len(self.token_bytes) else 0 for i in ids]
    ends = np.cumsum(lengths)
    first = int(np.searchsorted(ends, start, side='right'))
    last = int(np.searchsorted(ends - lengths, stop, side='left'))
    return first, max(first, last) if stop > start else first

  def text_of(self, ids: Sequence[int] | np.ndarray) -> str:
    """`bytes_of` as text; a broken UTF-8 sequence becomes U+FFFD."""
    return self.bytes_of(ids).decode('utf-8', errors='replace')


def load(folder: str | pathlib.Path) -> Tokenizer:
  """Reads an ordinary Hugging Face tokenizer folder.

  The ids that end a response are those of `generation_config.json` if there is one, else the
  tokenizer's own end-of-text token.

  Raises:
    UserError: if there is no tokenizer, it is not byte-level BPE, or it has no end of text.
  """
  folder = pathlib.Path(folder)
  path = folder / 'tokenizer.json'
  if not path.is_file():
    raise UserError(
      f'No tokenizer in {str(folder)!r}: {path.name} is missing. Give the folder of a Hugging Face '
      'byte-level BPE tokenizer (Qwen2, Qwen3, Llama 3, or one made by `jaxsearch world`).'
    )
  try:
    plain = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The library raises bare Exception.
    raise UserError(f'{path} cannot be read as a tokenizer: {error}.') from error
  _check_is_byte_level(plain, path)
  plain.encode_special_tokens = True
  plain.no_truncation()
  plain.no_padding()

  # Read as a bare fast tokenizer: model-specific classes rebuild their own from parts.
  reader = transformers_library().PreTrainedTokenizerFast
  hf = reader.from_pretrained(str(folder), local_files_only=True)
  token_bytes = _token_bytes(plain)
  return Tokenizer(hf, plain, token_bytes, _eos_ids(folder, hf.eos_token_id, len(token_bytes)))


def save(tokenizer: Tokenizer, folder: str | pathlib.Path) -> None:
  """Writes a folder that `load` reads back to the same tokenizer, end-of-text ids included."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.hf.save_pretrained(str(folder))
  _write_json(folder / 'generation_config.json', {'eos_token_id': list(tokenizer.eos_ids)})


def train(texts: Iterable[str], vocab_size: int, folder: str | pathlib.Path) -> None:
  """Trains a byte-level BPE tokenizer and writes it as an ordinary Hugging Face folder.

  Its only special token is the end of text, which is also the padding.

  Raises:
    UserError: if `vocab_size` does not hold the 256 bytes and the end of text.
  """
  if vocab_size < 257:
    raise UserError(
      f'vocab_size is {vocab_size}; a byte-level tokenizer needs at least 257 (the bytes and '
      'the end of text).'
    )
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[_END_OF_TEXT],
    initial_alphabet=sorted(_byte_letters()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  description = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': _END_OF_TEXT,
    'pad_token': _END_OF_TEXT,
    'clean_up_tokenization_spaces': False,
  }
  _write_json(folder / 'tokenizer_config.json', description)


def transformers_library() -> pytypes.ModuleType:
  """The library, slow to import, without its advice at import to install PyTorch."""
  quiet = 'TRANSFORMERS_NO_ADVISORY_WARNINGS'
  before = os.environ.get(quiet)
  os.environ[quiet] = '1'
  try:
    return importlib.import_module('transformers')
  finally:
    del os.environ[quiet]
    if before is not None:
      os.environ[quiet] = before


def _byte_letters() -> dict[str, int]:
  """Letter of the byte-level alphabet -> byte.

  Printable Latin-1 bytes stand for themselves; the others are numbered from U+0100 upwards.
  Source: Radford et al. 2019 (GPT-2), the alphabet of every byte-level BPE since.
  """
  printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = [b for b in range(256) if b not in printable]
  letters = {chr(b): b for b in printable}
  return letters | {chr(0x100 + n): b for n, b in enumerate(others)}


def _token_bytes(tokenizer: tokenizers.Tokenizer) -> tuple[bytes, ...]:
  letters = _byte_letters()
  vocabulary = tokenizer.get_vocab(with_added_tokens=True)
  added = tokenizer.get_added_tokens_decoder()
  table = [b''] * (max(vocabulary.values()) + 1)
  for token, i in vocabulary.items():
    if i in added:
      table[i] = b'' if added[i].special else added[i].content.encode()
    else:
      table[i] = bytes(letters[letter] for letter in token)
  return tuple(table)


def _check_is_byte_level(tokenizer: tokenizers.Tokenizer, path: pathlib.Path) -> None:
  """The alphabet is what makes a tokenizer byte-level: each byte has its own token."""
  vocabulary = tokenizer.get_vocab(with_added_tokens=False)
  is_bpe = isinstance(tokenizer.model, tokenizers.models.BPE)
  if not is_bpe or not all(letter in vocabulary for letter in _byte_letters()):
    kind = type(tokenizer.model).__name__
    raise UserError(
      f'{path} holds a {kind} tokenizer that is not byte-level BPE. Stops are found by the bytes '
      'of the tokens, so only byte-level BPE is supported (Qwen2, Qwen3, Llama 3 and the like).'
    )


def _eos_ids(folder: pathlib.Path, own: int | None, vocab_size: int) -> tuple[int, ...]:
  path = folder / 'generation_config.json'
  given: Any = own
  if path.is_file():
    given = json.loads(path.read_text(encoding='utf-8')).get('eos_token_id', own)
  ids = tuple(given) if isinstance(given, list) else (given,)
  if not ids or not all(isinstance(i, int) and 0 <= i < vocab_size for i in ids):
    raise UserError(
      f'The tokenizer in {str(folder)!r} ends a text with {given!r}, which is not an id below '
      f'{vocab_size}. Set eos_token in tokenizer_config.json or eos_token_id in {path.name}.'
    )
  return ids


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
