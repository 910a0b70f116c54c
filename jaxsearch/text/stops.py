"""Stop strings as one table that the device steps through, a token at a time.

The automaton reads bytes (Aho and Corasick 1975); the table is that automaton run over the bytes
of each token. A stop is therefore seen at the token that completes it, whichever way it is split
over tokens and wherever in a token it begins or ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import UserError

_EOS = 'eos'


@dataclasses.dataclass(frozen=True, eq=False)
class StopTable:
  """An automaton over token ids; state 0 is the start.

  Attributes:
    table: int32 [A, V], the next state. Accepting states lead to themselves.
    first_accept: state first_accept + i says that names[i] was completed.
    names: the stop strings, then 'eos'.
  """

  table: np.ndarray
  first_accept: int
  names: tuple[str, ...]


def compile(stops: Sequence[str], tokenizer: Tokenizer) -> StopTable:
  """Makes the table of `stops` and of the tokenizer's end-of-text ids.

  If a token completes several stops, the one that is complete at the earlier byte counts; at the
  same byte, the one named first.

  Raises:
    ValueError: if a stop is empty, named twice or called 'eos'.
  """
  names = (*stops, _EOS)
  if '' in names or len(set(names)) < len(names):
    raise ValueError(f'Stops must be different non-empty strings other than {_EOS!r}: {stops!r}.')
  automaton, first_accept = _byte_automaton([stop.encode() for stop in stops])
  table = _over_tokens(automaton, tokenizer.token_bytes)
  table[:first_accept, list(tokenizer.eos_ids)] = first_accept + len(stops)
  return StopTable(table, first_accept, names)


def widen(stops: StopTable, vocab: int) -> StopTable:
  """The table over `vocab` ids: those without a token leave every state as it is.

  Models have more ids than their tokenizer when the vocabulary was rounded up (Qwen).

  Raises:
    UserError: if the tokenizer knows ids that a model of `vocab` ids does not have.
  """
  states, known = stops.table.shape
  if known > vocab:
    raise UserError(
      f'The tokenizer has {known} ids, the policy only {vocab}: they do not belong together. Give '
      "the policy's own tokenizer, or a model whose vocabulary holds all ids."
    )
  rest = np.repeat(np.arange(states, dtype=np.int32)[:, None], vocab - known, axis=1)
  return dataclasses.replace(stops, table=np.concatenate([stops.table, rest], axis=1))


def stop_byte(name: str, data: bytes) -> int:
  """Offset just after the first completion of the stop `name` in `data`; for 'eos', its end.

  Args:
    name: one of `StopTable.names`.
    data: bytes of the policy segment that the stop ended.

  Raises:
    ValueError: if `data` does not hold the stop.
  """
  if name == _EOS:
    return len(data)
  return data.index(name.encode()) + len(name.encode())


def _byte_automaton(patterns: list[bytes]) -> tuple[np.ndarray, int]:
  """int32 [A, 256] and the first accepting state; one accepting state a pattern, then eos."""
  prefixes = sorted({p[:n] for p in patterns for n in range(len(p))} | {b''}, key=len)
  # A stop that contains another stop is never completed first: its longer prefixes are dead.
  prefixes = [x for x in prefixes if not any(p in x for p in patterns)]
  state_of = {prefix: state for state, prefix in enumerate(prefixes)}
  first_accept = len(prefixes)
  automaton = np.empty((first_accept + len(patterns) + 1, 256), np.int32)
  automaton[first_accept:] = np.arange(first_accept, len(automaton))[:, None]
  for prefix, state in state_of.items():
    for byte in range(256):
      read = prefix + bytes([byte])
      done = [i for i, p in enumerate(patterns) if read.endswith(p)]
      if done:
        automaton[state, byte] = first_accept + done[0]
      else:
        automaton[state, byte] = next(
          state_of[read[i:]] for i in range(len(read) + 1) if read[i:] in state_of
        )
  return automaton, first_accept


def _over_tokens(automaton: np.ndarray, token_bytes: Sequence[bytes]) -> np.ndarray:
  """int32 [A, V]: `automaton` run over each token from each state, all tokens a byte at a time."""
  data = np.frombuffer(b''.join(token_bytes), np.uint8)
  lengths = np.array([len(b) for b in token_bytes])
  starts = np.cumsum(lengths) - lengths
  states = np.repeat(np.arange(len(automaton), dtype=np.int32)[:, None], len(lengths), axis=1)
  for position in range(lengths.max(initial=0)):
    active = np.flatnonzero(lengths > position)
    states[:, active] = automaton[states[:, active], data[starts[active] + position]]
  return states
