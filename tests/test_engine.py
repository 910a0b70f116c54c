"""The device half of a rollout: one row's bits depend on that row alone; memory and compilation."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import policies
import pytest

from jaxsearch import sharding
from jaxsearch.models import decoder
from jaxsearch.rollout import sync
from jaxsearch.rollout.engine import Engine
from jaxsearch.rollout.lanes import Lane
from jaxsearch.text import stops
from jaxsearch.types import UserError

# The reference is another program of other shapes: the last bits of its sums differ.
TOLERANCE = 2e-5


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  """Without the tokens that are searches: rows go on until their budget ends."""
  _, size, params = policies.random_policy(tmp_path_factory.mktemp('tokenizer'))
  return policies.make_tokenizer(tmp_path_factory.mktemp('plain')), size, params


CACHES = {
  'dense': {},
  'blocked': {'cache': 'blocked', 'block_tokens': 16},
  'paged': {'cache': 'paged', 'block_tokens': 16},
  'cudnn': {'cache': 'cudnn'},
  'native': {'cache': 'native', 'block_tokens': 64},
}


@pytest.fixture(scope='module', params=CACHES)
def engine(policy, tmp_path_factory, request):
  folder = tmp_path_factory.mktemp('engine')
  return policies.make_actor(policy, folder, **CACHES[request.param])._engine


def _ids(seed, n):
  return np.random.default_rng(seed).integers(0, 250, n).astype(np.int32)


def _key(seed):
  return np.random.default_rng(seed).integers(0, 2**32, 2, np.uint32)


def _lanes(engine, slot, ids, seed, *, start=0, left=20, temperature=1.0):
  """The chunks that write `ids[start:]` behind a row's first `start` tokens; the last activates."""
  begins = list(range(start, max(len(ids) - 1, start + 1), engine.chunk))
  for at in begins:
    stop = min(at + engine.chunk, len(ids) - 1)
    lane = (slot, at, ids[at:stop], int(ids[stop]), left if at == begins[-1] else 0)
    yield Lane(*lane, _key(seed), temperature)


def _feed(engine, *args, **kwargs):
  for lane in _lanes(engine, *args, **kwargs):
    engine.extend([lane])


def _run(engine, slots, chunks=4):
  """Slot -> (ids, log-probs) sampled in some decode calls."""
  found = {slot: ([], []) for slot in slots}
  for _ in range(chunks):
    out = engine.read(engine.decode())
    for slot in slots:
      for kept, array in zip(found[slot], out):
        kept.extend(array[slot, : out[2][slot]])
  return {slot: (np.array(a, np.int32), np.array(b, np.float32)) for slot, (a, b) in found.items()}


def _bits(row):
  return tuple(array.tobytes() for array in row)


def _park(engine):
  """Every slot idle, and full of other rows' keys and values."""
  for slot in range(engine.slots):
    _feed(engine, slot, _ids(100 + slot, 30 + slot), seed=slot, left=0)


@pytest.fixture(scope='module')
def alone(engine):
  """A row that nobody disturbs: prompt, then (ids, log-probs)."""
  prompt = _ids(0, 37)
  _feed(engine, 0, prompt, seed=0)
  row = _run(engine, [0])[0]
  assert len(row[0]) == 20
  return prompt, row


def _logits(params, size, context):
  """[T,V] of the uncached decoder; the context is padded, so that one program serves all."""
  tokens = np.zeros((1, 64), np.int32)
  tokens[0, : len(context)] = context
  hidden = jax.jit(decoder.hidden, static_argnames=('size', 'dtype', 'scan'))
  x_BTD = hidden(params, size, tokens, dtype=jnp.float32, scan=False)
  return np.asarray(x_BTD[0, : len(context)]) @ np.asarray(decoder.unembedding(params, size)).T


def test_log_probs_are_those_of_the_learner(policy, engine):
  """Rows of different lengths and temperatures, against the uncached decoder."""
  _, size, params = policy
  rows = {1: (5, 1.0), 3: (18, 0.7), 6: (33, 1.6), 7: (1, 0.0)}
  for slot, (n, temperature) in rows.items():
    _feed(engine, slot, _ids(slot, n), seed=slot, temperature=temperature)
  for slot, (ids, logprobs) in _run(engine, rows).items():
    n, temperature = rows[slot]
    assert len(ids) > 0
    context = np.concatenate([_ids(slot, n), ids])
    logits = _logits(params, size, context) / (temperature or 1.0)
    expected = jax.nn.log_softmax(logits)[np.arange(n - 1, len(context) - 1), ids]
    np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE)
    if temperature == 0:
      np.testing.assert_array_equal(ids, logits[n - 1 : -1].argmax(-1))


def test_score_is_teacher_forcing(engine, alone):
  """Chunks of a context through extend give the log-probs that decode recorded."""
  prompt, (ids, logprobs) = alone
  context = np.concatenate([prompt, ids])
  scored = []
  for i, lane in enumerate(_lanes(engine, 5, context, seed=9, left=0)):
    idle = Lane(2, 0, _ids(i, 3), 0, 0, _key(0), 1.0)
    order = [lane, idle] if i % 2 else [idle, lane]
    scored += list(engine.score(order)[order.index(lane), : len(lane.tokens)])
  np.testing.assert_allclose(scored[len(prompt) - 1 :], logprobs, atol=TOLERANCE)


@pytest.fixture(scope='module', params=['blocked', 'paged', 'native'])
def fast(policy, tmp_path_factory, request):
  options = {**CACHES[request.param], 'deterministic': False}
  return policies.make_actor(policy, tmp_path_factory.mktemp('fast'), **options)._engine


def test_fast_mode_samples_from_the_same_distribution(policy, fast):
  """Programs have as many lanes as there is work: only rounding differs."""
  seen = []
  listener = lambda event, _, **__: seen.append(event) if 'backend_compile' in event else None
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    _feed(fast, 0, _ids(0, 40), seed=1)
    for lane, other in zip(*(_lanes(fast, s, _ids(s, 40), seed=s) for s in (1, 2))):
      fast.extend([lane, other])
    rows = _run(fast, [0, 1, 2])
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)
  assert not seen and all(len(ids) for ids, _ in rows.values())
  test_log_probs_are_those_of_the_learner(policy, fast)


@pytest.mark.parametrize('slot', [0, 5, 7])
def test_slot_company_and_garbage_change_no_bit(engine, alone, slot):
  prompt, expected = alone
  _park(engine)
  for other in {1, 2, 4, 6} - {slot}:
    _feed(engine, other, _ids(50 + other, 2 + 7 * other), seed=50 + other, left=3 + other)
  _feed(engine, slot, prompt, seed=0)
  assert _bits(_run(engine, [slot])[slot]) == _bits(expected)


@pytest.mark.parametrize('place', [0, 1])
def test_lane_changes_no_bit(engine, alone, place):
  """The row's chunks are fed in lane 0 or 1, beside a row that is fed other chunks."""
  prompt, expected = alone
  _park(engine)
  beside = list(_lanes(engine, 2, _ids(1, 50), seed=1))
  for lane, other in zip(_lanes(engine, 3, prompt, seed=0), beside):
    engine.extend([lane, other] if place == 0 else [other, lane])
  assert _bits(_run(engine, [3])[3]) == _bits(expected)


def test_several_lanes_of_one_row_change_no_bit(engine, alone):
  """37 ids are three chunks: the first two in one program, written before either attends."""
  prompt, expected = alone
  _park(engine)
  first, second, third = _lanes(engine, 4, prompt, seed=0)
  engine.extend([first, second])
  engine.extend([third])
  assert _bits(_run(engine, [4])[4]) == _bits(expected)


def test_a_chunk_of_decode_ends_when_enough_rows_have_stopped(engine, alone):
  """Of three rows one stops after 2 tokens and one after 4; no bit depends on where chunks end."""
  prompt, expected = alone
  _park(engine)
  for slot, left in ((1, 2), (2, 4)):
    _feed(engine, slot, _ids(slot, 9), seed=slot, left=left)
  _feed(engine, 5, prompt, seed=0)
  found = [engine.read(engine.decode(stops=stops)) for stops in (1, 1, 2)]
  assert [int(out[2][5]) for out in found] == [2, 2, 7]
  rest = _run(engine, [5])[5]
  rows = [(out[0][5, : out[2][5]], out[1][5, : out[2][5]]) for out in found]
  assert _bits(map(np.concatenate, zip(*rows, rest))) == _bits(expected)


def test_a_fork_equals_a_prefill_of_its_own(engine, alone):
  """Also when its source has gone on sampling, and when its own slot held another row."""
  prompt, expected = alone
  _park(engine)
  _feed(engine, 6, prompt, seed=77)
  engine.read(engine.decode())
  nothing = (prompt[:0], int(prompt[-1]), 20, _key(0), 1.0)
  engine.fork([Lane(slot, len(prompt) - 1, *nothing, source=6) for slot in (1, 4)])
  rows = _run(engine, [1, 4, 6])
  assert _bits(rows[1]) == _bits(rows[4]) == _bits(expected)
  assert _bits(rows[6]) != _bits(expected)  # Another key.


def test_a_parked_row_goes_on_as_if_nothing_had_happened(engine, alone):
  """It stops after 6 tokens, others run, and it is given the rest of its budget."""
  prompt, (ids, logprobs) = alone
  _feed(engine, 4, prompt, seed=0, left=6)
  first = _run(engine, [4])[4]
  _feed(engine, 1, _ids(1, 20), seed=1)
  engine.read(engine.decode())
  engine.extend([Lane(4, len(prompt) + 5, ids[:0], int(ids[5]), 14, _key(0), 1.0)])
  rest = _run(engine, [4])[4]
  assert len(first[0]) == 6
  assert _bits(map(np.concatenate, zip(first, rest))) == _bits((ids, logprobs))


def test_a_rewound_row_forgets(engine, alone):
  prompt, expected = alone
  _feed(engine, 2, np.concatenate([prompt, _ids(5, 20)]), seed=3)
  engine.read(engine.decode())
  engine.extend([Lane(2, len(prompt) - 1, prompt[:0], int(prompt[-1]), 20, _key(0), 1.0)])
  assert _bits(_run(engine, [2])[2]) == _bits(expected)


def test_a_row_that_does_nothing_touches_no_other(engine, alone):
  """Slot 1 is set back to where slot 2, which shares its beginning, has tokens; others decode."""
  prompt, expected = alone
  cached, state = prompt[:-1], (_key(0), 1.0)
  engine.release([1, 2, 3])
  _feed(engine, 1, prompt, seed=0, left=0)
  engine.fork([Lane(2, len(cached), prompt[:0], int(prompt[-1]), 0, *state, source=1)])
  engine.extend([Lane(1, len(cached) - 2, prompt[:0], int(prompt[-3]), 0, *state)])
  _feed(engine, 3, _ids(5, 12), seed=4)
  _run(engine, [3])
  engine.extend([Lane(2, len(cached), prompt[:0], int(prompt[-1]), 20, *state)])
  assert _bits(_run(engine, [2])[2]) == _bits(expected)


def test_key_and_place_decide_what_is_drawn(engine, alone):
  prompt, expected = alone
  _feed(engine, 0, prompt, seed=1)
  assert _bits(_run(engine, [0])[0]) != _bits(expected)


def test_a_lane_says_where_the_automaton_stands(engine):
  for state in (1, 0):
    _feed(engine, 6, _ids(0, 9), seed=1, left=0)
    engine.extend([Lane(6, 8, _ids(0, 0), 5, 0, _key(1), 1.0, automaton=state)])
    assert np.asarray(engine._rows.automaton)[6] == state


def test_left_is_what_is_sampled(engine):
  """Over several calls; and an engine without work hands back nothing and moves no row."""
  _park(engine)
  _feed(engine, 3, _ids(3, 9), seed=12, left=10)
  counts = [int(engine.read(engine.decode()).count[3]) for _ in range(3)]
  assert counts == [7, 3, 0]
  assert np.asarray(engine._rows.length)[[2, 3]].tolist() == [31, 18]  # Slot 2 was parked.
  before = jax.tree.map(np.asarray, engine._rows)
  out = engine.read(engine.decode())
  jax.tree.map(np.testing.assert_array_equal, engine._rows, before)
  assert not out.count.any() and not out.active.any()


def test_ids_without_a_token_stand_for_nothing(policy):
  """They leave the automaton where it is, and have no bytes."""
  tokenizer, size, _ = policy
  table = stops.compile(('</search>',), tokenizer)
  known = tokenizer.vocab_size
  wide = stops.widen(table, size.vocab)
  assert known < size.vocab and wide.table.shape == (len(table.table), size.vocab)
  np.testing.assert_array_equal(wide.table[:, :known], table.table)
  for state, row in enumerate(wide.table):
    assert set(row[known:]) == {state}
  assert tokenizer.bytes_of([65, known, size.vocab - 1, 65]) == 2 * tokenizer.token_bytes[65]


def test_a_tokenizer_larger_than_the_policy_is_refused(policy, engine, tmp_path):
  tokenizer, size, _ = policy
  table = stops.compile(('</search>',), tokenizer)
  assert table.table.shape[1] < size.vocab  # Fewer ids are allowed: `engine` was built.
  small = dataclasses.replace(size, vocab=tokenizer.vocab_size - 1)
  options = policies.config.Rollout(**policies.ROLLOUT)
  with pytest.raises(UserError, match=f'{tokenizer.vocab_size} ids, the policy only'):
    Engine(small, table, options, mesh=engine._split.mesh)


# --- Memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('cache', ['dense', 'blocked', 'paged', 'native'])
def test_the_cache_is_written_in_place(policy, cache):
  """Temporaries of decode: 2 % of the cache and a few buffers of logits; no program copies it."""
  tokenizer, size, _ = policy
  size = dataclasses.replace(size, layers=8, head_size=64, vocab=4000)
  table, slots = stops.compile(('</search>',), tokenizer), 16
  shape = {'slots': slots, 'context_tokens': 2040, **CACHES[cache]}
  options = policies.config.Rollout(**{**policies.ROLLOUT, **shape, 'block_tokens': 256})
  mesh = sync.sampling_mesh(sharding.make_mesh(policies.config.Mesh(), jax.devices()[:1]), 1)
  large = Engine(size, table, options, mesh=mesh)
  large.load(decoder.unstack(decoder.init(jax.random.key(0), size), size))
  kept = sum(a.nbytes for a in jax.tree.leaves(large._cache))
  found = {
    name: program.compile().memory_analysis()
    for name, program in large.lowered().items()
    if name != 'score'
  }
  temporary = {name: memory.temp_size_in_bytes for name, memory in found.items()}
  assert all(memory.alias_size_in_bytes >= kept for memory in found.values()), (found, kept)
  page = 256 * slots * 2 * 64 * 4 * 2  # One of every row, keys and values of a layer.
  read = 3 * page if cache == 'paged' else 0
  assert temporary['decode'] < 0.02 * kept + 6 * slots * size.vocab * 4 + read, (temporary, kept)
  assert temporary['extend'] < 0.25 * kept, (temporary, kept)  # 2 lanes of 16 slots are read.
  assert temporary['fork'] < 1.02 * kept / slots, (temporary, kept)  # A row at a time.


# --- Several devices ------------------------------------------------------------------------------


@pytest.mark.slow
def test_replicas_and_tensor_halves(tmp_path):
  """Four pretend devices, in a process of their own: see engine_worker.py."""
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=4'
  worker = pathlib.Path(__file__).with_name('engine_worker.py')
  done = subprocess.run(
    [sys.executable, str(worker), str(tmp_path)],
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines()[-1] == 'replicas agree'
