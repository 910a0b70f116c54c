"""Stops: the table that the device steps through finds what a string search finds."""

import dataclasses
import pathlib
import random

import numpy as np
import pytest

from jaxsearch.text import stops
from jaxsearch.text import tokenizer as tokenizer_lib

TEXTS = ['so </search> or </answer>\n and <</search> naïve 東京 </sea </ search> aab ab'] * 9
AWKWARD = (
  *(bytes([b]) for b in range(256)),
  b'</search>\n',
  b'</search></search>',
  b' </search> and </answer>',
  b'</answer>,</search>',
  b'<</search>',
  b'</sea</search>x',
  b'</',
  b'</se',
  b'arch',
  b'ch>\n\n',
  b'h><',
  b'><</s',
  b'wer></search',
  b'\xe6\x9d',
  b'\xb1</sear',
  b'ch>\xe4',
  b'aaa',
  b'aba',
  b'',
)
TAGS = ('</search>', '</answer>', '<</search>', '</sea</search>', '</search', '<search>')
OTHERS = (
  '</search>\n',
  '</',
  '>',
  '<',
  'aab',
  'ab',
  'xab',
  'aaab',
  'a',
  'naïve ',
  '東京',
  '🦊',
  '\n',
)
STOP_SETS = (
  ('</search>',),
  ('</search>', '</answer>'),
  ('aab', 'ab'),
  ('xab', 'ab', '<</s'),
  ('東京', '</search>\n', 'aa'),
  (),
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tokenizer_lib.Tokenizer:
  folder: pathlib.Path = tmp_path_factory.mktemp('tokenizer')
  tokenizer_lib.train(TEXTS, 330, folder)
  return tokenizer_lib.load(folder)


@pytest.fixture(scope='module')
def awkward(trained: tokenizer_lib.Tokenizer) -> tokenizer_lib.Tokenizer:
  """Tokens in which tags begin, end and follow each other; two ends of text, one with bytes."""
  ends = (len(AWKWARD), len(AWKWARD) + 1)
  return dataclasses.replace(trained, token_bytes=(*AWKWARD, b'', b'</search>'), eos_ids=ends)


def random_ids(rng: random.Random, tokenizer: tokenizer_lib.Tokenizer) -> list[int]:
  """Tokens at random, or a text of tags and parts of tags split at random into tokens."""
  if rng.random() < 0.3:
    return rng.choices(range(tokenizer.vocab_size), k=rng.randrange(12))
  left = ''.join(rng.choices(TAGS + OTHERS, k=rng.randrange(1, 8))).encode()
  ids = []
  while left:
    fitting = [i for i, b in enumerate(tokenizer.token_bytes) if b and left.startswith(b)]
    ids.append(rng.choice(fitting))
    left = left[len(tokenizer.token_bytes[ids[-1]]) :]
    if rng.random() < 0.02:
      ids.append(rng.choice(tokenizer.eos_ids))
  return ids


def by_table(table: stops.StopTable, ids: list[int]) -> tuple[int, str] | None:
  state = 0
  for index, token in enumerate(ids):
    state = table.table[state, token]
    if state >= table.first_accept:
      return index, table.names[state - table.first_accept]
  return None


def by_search(
  tokenizer: tokenizer_lib.Tokenizer, ids: list[int], wanted: tuple[str, ...]
) -> tuple[int, str, int] | None:
  """(token, name, byte) of the first stop, by searching the bytes for each stop."""
  end = next((i for i, token in enumerate(ids) if token in tokenizer.eos_ids), len(ids))
  data = tokenizer.bytes_of(ids[:end])
  found = [
    (data.index(stop.encode()) + len(stop.encode()), order, stop)
    for order, stop in enumerate(wanted)
    if stop.encode() in data
  ]
  if found:
    byte, _, stop = min(found)
    index = next(i for i in range(end) if len(tokenizer.bytes_of(ids[: i + 1])) >= byte)
    return index, stop, byte
  if end < len(ids):
    return end, 'eos', len(tokenizer.bytes_of(ids[: end + 1]))
  return None


@pytest.mark.parametrize('kind', ['trained', 'awkward'])
def test_ten_thousand_random_sequences_stop_where_a_string_search_does(
  kind: str, request: pytest.FixtureRequest
) -> None:
  tokenizer = request.getfixturevalue(kind)
  tables = [stops.compile(wanted, tokenizer) for wanted in STOP_SETS]
  rng = random.Random(kind)
  seen = dict.fromkeys([name for table in tables for name in table.names], 0)
  for _ in range(5000):
    ids = random_ids(rng, tokenizer)
    which = rng.randrange(len(STOP_SETS))
    expected = by_search(tokenizer, ids, STOP_SETS[which])
    stopped = by_table(tables[which], ids)
    if stopped is None or expected is None:
      assert stopped is expected, ids
      continue
    index, name = stopped
    segment = tokenizer.bytes_of(ids[: index + 1])
    assert (index, name, stops.stop_byte(name, segment)) == expected, ids
    seen[name] += 1
  assert min(seen.values()) > 20, seen  # Every stop was really met.


def test_all_ways_to_split_a_tag_over_tokens(awkward: tokenizer_lib.Tokenizer) -> None:
  tag = b'</search>'
  for cuts in range(2 ** (len(tag) - 1)):
    parts, start = [], 0
    for place in range(1, len(tag) + 1):
      if place == len(tag) or cuts >> (place - 1) & 1:
        parts.append(b'?' * (not parts) + tag[start:place] + b'!' * (place == len(tag)))
        start = place
    tokens = dataclasses.replace(awkward, token_bytes=tuple(parts), eos_ids=())
    table = stops.compile(('</search>',), tokens)
    assert by_table(table, list(range(len(parts)))) == (len(parts) - 1, '</search>')


def test_shape_start_and_absorbing_states(awkward: tokenizer_lib.Tokenizer) -> None:
  table = stops.compile(('</search>', '</answer>'), awkward)
  assert table.names == ('</search>', '</answer>', 'eos')
  # 17 proper prefixes, of which '', '<' and '</' are shared, and three accepting states.
  assert table.first_accept == 9 + 9 - 3
  assert table.table.shape == (table.first_accept + 3, awkward.vocab_size)
  assert table.table.dtype == np.int32
  for state in range(table.first_accept, len(table.table)):
    assert (table.table[state] == state).all()
  ends = table.table[: table.first_accept, list(awkward.eos_ids)]
  assert (ends == len(table.table) - 1).all()
  silent = AWKWARD.index(b'')
  np.testing.assert_array_equal(table.table[:, silent], np.arange(len(table.table)))


def test_stop_byte_is_just_after_the_first_completion() -> None:
  data = 'é </sea</search>\n</search>'.encode()
  assert stops.stop_byte('</search>', data) == data.index(b'\n')
  assert stops.stop_byte('eos', data) == len(data)
  with pytest.raises(ValueError, match='not found'):
    stops.stop_byte('</answer>', data)


@pytest.mark.parametrize('wrong', [('',), ('a', 'a'), ('eos',)])
def test_ambiguous_stops_are_refused(
  awkward: tokenizer_lib.Tokenizer, wrong: tuple[str, ...]
) -> None:
  with pytest.raises(ValueError, match='different non-empty strings'):
    stops.compile(wrong, awkward)
