"""The tokenizer: bytes of every token, deaf to special tokens, an ordinary folder."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import UserError

TEXTS = [
  'The river Ola flows through <search> Vantor </search> and on.',
  'naïve façade, 東京 and ½ of Zürich — "quoted"\n\n\ttabs',
  '<think> Who leads Vantor? </think>\n<answer> \\boxed{Mira Oslen} </answer>',
] * 20


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('tokenizer')
  tokenizer_lib.train(TEXTS, 400, out)
  return out


@pytest.fixture(scope='module')
def tokenizer(folder: pathlib.Path) -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load(folder)


@pytest.mark.parametrize(
  'text',
  [
    '',
    *TEXTS[:3],
    'unseen: Ωmega 🦊 \u200b\x00\x7f\xa0\xad end',
    ' leading and trailing  ',
    'a\r\nb\u2028c',
  ],
)
def test_bytes_of_undoes_encode(tokenizer: tokenizer_lib.Tokenizer, text: str) -> None:
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert tokenizer.bytes_of(ids) == text.encode()
  assert tokenizer.text_of(ids) == text


def test_table_holds_every_byte_and_no_bytes_for_the_end_of_text(
  tokenizer: tokenizer_lib.Tokenizer,
) -> None:
  assert tokenizer.vocab_size == len(tokenizer.token_bytes) == len(tokenizer.hf)
  assert {bytes([b]) for b in range(256)} <= set(tokenizer.token_bytes)
  assert tokenizer.token_bytes[tokenizer.eos_ids[0]] == b''
  assert max(map(len, tokenizer.token_bytes)) > 3  # It has merged something.


def test_special_tokens_in_a_text_are_only_text(tokenizer: tokenizer_lib.Tokenizer) -> None:
  text = 'a document that says <|endoftext|> aloud'
  ids = tokenizer.encode(text)
  assert not set(ids.tolist()) & set(tokenizer.eos_ids)
  assert tokenizer.bytes_of(ids) == text.encode()
  assert tokenizer.eos_ids[0] in tokenizer.hf.encode(text)  # Chat templates are read as such.


def test_half_a_letter_is_a_replacement_character(tokenizer: tokenizer_lib.Tokenizer) -> None:
  first_byte = tokenizer.token_bytes.index('é'.encode()[:1])
  assert tokenizer.text_of([first_byte]) == '\ufffd'


def test_training_is_repeatable_and_makes_an_ordinary_folder(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  import transformers

  tokenizer_lib.train(iter(TEXTS), 400, tmp_path)
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  usual = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert usual.decode(usual.encode(TEXTS[1])) == TEXTS[1]
  assert usual.eos_token_id == usual.pad_token_id == tokenizer_lib.load(tmp_path).eos_ids[0]


def test_save_keeps_everything_and_generation_config_names_the_ends(
  tokenizer: tokenizer_lib.Tokenizer, tmp_path: pathlib.Path
) -> None:
  tokenizer_lib.save(tokenizer, tmp_path)
  (tmp_path / 'generation_config.json').write_text(json.dumps({'eos_token_id': [7, 0]}))
  changed = tokenizer_lib.load(tmp_path)
  assert changed.eos_ids == (7, 0)
  tokenizer_lib.save(changed, tmp_path / 'again')
  again = tokenizer_lib.load(tmp_path / 'again')
  assert again.eos_ids == (7, 0)
  assert again.token_bytes == tokenizer.token_bytes
  np.testing.assert_array_equal(again.encode(TEXTS[0]), tokenizer.encode(TEXTS[0]))


def test_added_tokens_that_are_not_special_keep_their_bytes(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  raw = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  raw.add_tokens(['<think>'])
  raw.add_special_tokens(['<|im_end|>'])
  raw.save(str(tmp_path / 'tokenizer.json'))
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'eos_token': '<|im_end|>'}))
  tokenizer = tokenizer_lib.load(tmp_path)
  assert tokenizer.token_bytes[-2:] == (b'<think>', b'')
  assert tokenizer.eos_ids == (tokenizer.vocab_size - 1,)


def test_what_is_not_a_byte_level_tokenizer_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r'No tokenizer in .*tokenizer\.json is missing'):
    tokenizer_lib.load(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{')
  with pytest.raises(UserError, match='cannot be read as a tokenizer'):
    tokenizer_lib.load(tmp_path)
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0}, unk_token='a'))
  words.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(UserError, match='holds a WordLevel tokenizer that is not byte-level BPE'):
    tokenizer_lib.load(tmp_path)
  with pytest.raises(UserError, match='vocab_size is 256; .* at least 257'):
    tokenizer_lib.train(TEXTS, 256, tmp_path)


@pytest.mark.parametrize('ends', [{'eos_token_id': 9999}, {'eos_token_id': []}])
def test_an_end_of_text_outside_the_vocabulary_is_refused(
  tokenizer: tokenizer_lib.Tokenizer, tmp_path: pathlib.Path, ends: dict
) -> None:
  tokenizer_lib.save(tokenizer, tmp_path)
  (tmp_path / 'generation_config.json').write_text(json.dumps(ends))
  with pytest.raises(UserError, match=f'not an id below {tokenizer.vocab_size}'):
    tokenizer_lib.load(tmp_path)


def test_loading_imports_neither_jax_nor_torch(folder: pathlib.Path) -> None:
  code = (
    'import sys; from jaxsearch.text import stops, tokenizer; '
    "assert 'transformers' not in sys.modules; tokenizer.load(sys.argv[1]); "
    "assert 'jax' not in sys.modules and 'torch' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code, str(folder)], check=True)
