"""Traces, what replays them, and the floors that they are held against."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.bench import _memory, _syncing, floors, replay, rollout, traces
from jaxsearch.bench.traces import Script, Turn
from jaxsearch.models import sizes
from jaxsearch.models.decoder import Size
from jaxsearch.types import SearchRequest, UserError

SCRIPTS = [
  Script(0, 9, (Turn(3, 20, 0.05), Turn(4, 11, 0.0), Turn(2))),
  Script(0, 9, (Turn(6),)),
  Script(1, 30, (Turn(1, 40, 0.05), Turn(5))),
  Script(2, 5, (Turn(7, 3, 0.0), Turn(1))),
]
# Observation and delay of a search to fill in.
_SEARCH = (
  '{"question": 0, "prompt": 9, "turns": [{"policy": 6, "observation": %s, "latency_s": %s},'
  ' {"policy": 6}]}'
)


@pytest.mark.parametrize('name', traces.SHAPES)
def test_scripts_keep_to_their_shape(name):
  shape, scripts = traces.SHAPES[name], traces.make(name, 200, 0.2)
  assert len(scripts) == 200 and scripts == traces.make(name, 200, 0.2)
  for place, script in enumerate(scripts):
    assert script.question == place // shape.group
    assert script.length <= shape.context
    *searches, last = script.turns
    assert (last.observation, last.latency_s) == (0, 0.0)
    assert all(turn.latency_s == 0.2 and turn.observation >= 1 for turn in searches)
  prompts = {script.question: script.prompt for script in scripts}
  assert all(script.prompt == prompts[script.question] for script in scripts)


def test_a_trace_file_is_read_and_what_is_wrong_is_named(tmp_path):
  path = tmp_path / 'mine.jsonl'
  path.write_text(
    '{"question": 0, "prompt": 9, "turns": [{"policy": 3, "observation": 20, "latency_s": 0.05},'
    ' {"policy": 4, "observation": 11}, {"policy": 2}]}\n'
    '{"question": 0, "prompt": 9, "turns": [{"policy": 6}]}\n'
  )
  assert traces.open_trace(str(path), 9, latency_s=1.0) == SCRIPTS[:2]
  for line, told in (
    ('{', 'line 1 is not a trajectory'),
    ('[]', 'line 1 is not a trajectory'),
    ('{"question": 0, "prompt": 9, "turns": [{"policies": 6}]}', "'policies'"),
    ('{"question": 0, "prompt": 9, "turns": []}', 'at least 1 token'),
    ('{"question": 0, "prompt": 9, "turns": [{"policy": 6, "observation": 3}]}', 'no observation'),
    ('{"question": 0, "prompt": 9.5, "turns": [{"policy": 6}]}', 'whole numbers'),
    ('{"question": 0, "prompt": 9, "turns": [{"policy": true}]}', 'whole numbers'),
    (_SEARCH % ('"20"', 0.1), 'whole numbers'),
    (_SEARCH % (0, 0.1), 'at least 1 token'),
    (_SEARCH % (20, -0.1), r'latency_s is one of \[-0.1, 0.0\]; allowed: 0 or more'),
    (_SEARCH % (20, 'NaN'), 'allowed: 0 or more'),
    ('', 'holds no trajectory'),
  ):
    path.write_text(line)
    with pytest.raises(UserError, match=told):
      traces.open_trace(str(path), 9, latency_s=1.0)
  path.unlink()
  with pytest.raises(UserError, match=r"mine.jsonl'; allowed: an existing file, or search_r1"):
    traces.open_trace(str(path), 9, latency_s=1.0)


def test_work_counted_by_hand():
  """One layer, width 2, one head of 2 with its own keys and values, hidden 3, vocabulary 5."""
  size = Size(5, layers=1, embed=2, heads=1, kv_heads=1, head_size=2, hidden=3)
  work, machine = floors.Work(size, itemsize=4, kept=4), floors.Machine(flops=10.0, bandwidth=100.0)
  matrices = 4 * 2 * 2 + 3 * 2 * 3
  assert work.weights == 4 * (matrices + 10) and work.entry == 16
  assert work.operations(3, 6, sampled=2) == 2 * matrices * 3 + 2 * 10 * 2 + 4 * 2 * 6
  # Two rows that look at 3 and 4 entries: 2 * (68 + 20) + 8 * 7 operations, 176 + 16 * 7 bytes.
  assert work.step(machine, [3, 4]) == (2 * (68 + 20) + 56) / 10
  slow = floors.Machine(flops=1e9, bandwidth=100.0)
  assert work.step(slow, [3, 4]) == (176 + 112) / 100


def test_a_trace_counted_by_hand():
  """A prompt of 2 shared by two rows, one of which samples 1, is told 2 and samples 1 again."""
  size = Size(5, layers=1, embed=2, heads=1, kv_heads=1, head_size=2, hidden=3)
  work, machine = floors.Work(size, itemsize=4, kept=4), floors.Machine(flops=10.0, bandwidth=1e9)
  scripts = [Script(0, 2, (Turn(1, 2, 0.1), Turn(1))), Script(0, 2, (Turn(1),))]
  # Fed: places 0, 1 once, and 3, 4; sampled: places 2, 5 and 2; place t looks at t + 1 entries.
  fed = 68 * 4 + 8 * (1 + 2 + 4 + 5)
  sampled = (68 + 20) * 3 + 8 * (3 + 6 + 3)
  assert work.trace(machine, scripts, rows=2) == pytest.approx((fed + sampled) / 10)


@pytest.fixture(scope='module')
def bench():
  from jaxsearch import config

  knobs = config.Rollout(
    slots=3,
    context_tokens=0,
    decode_steps=4,
    extend_rows=2,
    extend_tokens=8,
    cache='blocked',
    block_tokens=32,
    deterministic=False,
  )
  return rollout.Bench('tiny', 'float32', knobs, SCRIPTS)


@pytest.mark.parametrize('mode', rollout.MODES)
def test_every_mode_does_the_same_work_and_compiles_nothing(bench, mode):
  found = bench.run(mode, SCRIPTS)
  assert found['policy_tokens_per_s'] / found['trajectories_per_s'] == pytest.approx(29 / 4)
  assert found['all_tokens_per_s'] / found['trajectories_per_s'] == pytest.approx(156 / 4)
  assert 0 < found['occupancy'] <= 1
  # The second run of a mode is another trace, of which the program knows nothing.
  assert bench.run(mode, SCRIPTS[::-1])['compiles_after_warmup'] == 0


def test_a_new_request_is_fed_whole_and_a_row_that_resumes_is_not(bench):
  fed = {}
  for mode in ('resume', 'reprefill'):
    tokens = []
    extend = bench.engine.extend
    bench.engine.extend = lambda lanes, extend=extend, tokens=tokens: (
      tokens.extend(len(lane.tokens) for lane in lanes),
      extend(lanes),
    )
    try:
      bench.run(mode, SCRIPTS[2:3])
    finally:
      del bench.engine.extend
    fed[mode] = sum(tokens)
  # 29 of the prompt; then the token sampled last and 39 of the answer, or all 70 that there are.
  assert fed == {'resume': 29 + 40, 'reprefill': 29 + 70}


@pytest.mark.parametrize('mode', rollout.MODES)
def test_in_lockstep_nothing_is_fed_while_a_row_runs(bench, mode):
  """Neither the first row's answer, while the second runs, nor the fourth in the third's place."""
  scripts = [
    Script(0, 9, (Turn(1, 20, 0.0), Turn(2))),
    Script(1, 9, (Turn(30),)),
    Script(2, 9, (Turn(2),)),
    Script(3, 17, (Turn(2),)),
  ]
  engine, running, fed = bench.engine, [False], []
  extend, decode = engine.extend, engine.decode

  def decoded(**limits):
    chunk = decode(**limits)
    running.append(bool(np.asarray(chunk.out.active).any()))
    return chunk

  engine.decode = decoded
  engine.extend = lambda lanes: (fed.append(running[-1]), extend(lanes))
  try:
    bench.run(mode, scripts)
  finally:
    del engine.decode, engine.extend
  assert any(fed) == (not mode.startswith('lockstep'))


def test_compilations_are_counted():
  compiled = []
  with _syncing.listening(compiled):
    jax.jit(lambda x: x * 41.5 + 3)(np.float32(1))
  assert compiled
  count = len(compiled)
  jax.jit(lambda x: x * 42.5 + 3)(np.float32(1))
  assert len(compiled) == count


def _request(place, turn):
  return SearchRequest(str(place), turn, 0, ('',), 1, str(place), 0.0, key=0)


def test_answers_arrive_when_the_trace_says():
  pool = replay.Delays(SCRIPTS)
  pool.submit(_request(0, 0))
  pool.submit(_request(0, 1))
  assert [r.turn for r, _ in pool.poll(0.0)] == [1] and pool.pending == 1
  assert [r.turn for r, _ in pool.poll(1.0)] == [0] and pool.pending == 0


def test_a_barrier_answers_all_or_nobody():
  pool = replay.Barrier(SCRIPTS)
  pool.submit(_request(0, 1))
  pool.submit(_request(2, 0))
  assert pool.poll(0.0) == [] and pool.pending == 2  # A row is running.
  start = time.monotonic()
  assert len(pool.poll(1.0)) == 2 and pool.pending == 0
  assert time.monotonic() - start >= 0.05  # The slower of the two.


def test_the_automaton_runs_and_never_stops_a_row():
  table = replay.unstopped(300)
  assert table.table.shape[1] == 300 and table.table.max() < table.first_accept
  assert np.count_nonzero(table.table) > 0


def test_where_the_time_goes_adds_up(bench):
  machine = floors.Machine(flops=1e11, bandwidth=1e10)
  found = bench.watch(SCRIPTS, machine)
  shares = [value for name, value in found.items() if name.startswith('share')]
  assert sum(shares) == pytest.approx(1.0) and min(shares) >= 0
  assert 0 < found['decode_floor_s'] < found['decode_step_s']


def test_a_step_of_decode_is_measured_at_the_length_that_is_named(bench):
  machine, work = floors.Machine(flops=1e11, bandwidth=1e10), floors.Work(sizes.find('tiny'), 4, 4)
  for context in (1, 16, 21):  # Less than a chunk of extend, whole chunks, and a part of one.
    step = bench.step(context, machine)
    # Four steps a program; the first looks at the tokens that are there and at its own.
    floor = sum(work.step(machine, [context + 1 + n] * 3) for n in range(4)) / 4
    assert step['floor'] == pytest.approx(floor) and step['seconds'] > 0
    assert bench.engine.lengths().tolist() == [context + 4] * 3


def test_new_weights_replace_the_old_ones_and_compile_nothing(bench):
  size = sizes.find('tiny')
  matrices = 32 * 16 * 2 * (4 + 2) + 3 * 32 * 64
  weights = size.vocab * 32 + size.layers * (matrices + 2 * 32) + 32
  found = bench.sync()
  assert found['bytes'] == 4 * weights and found['seconds'] > 0
  assert (found['compiles'], found['beside_bytes'], found['left_bytes']) == (0, 0, 0)


@pytest.mark.parametrize('mode', rollout.MODES)
def test_a_mode_holds_weights_and_cache_and_little_else(bench, mode):
  weights, most = bench.sync()['bytes'], bench.weigh(mode, SCRIPTS)
  entries = 3 * 5 * 32  # Three slots, five blocks for 128 tokens and a chunk.
  assert most > weights + entries * floors.Work(sizes.find('tiny'), 4, 4).entry
  # The largest result of a program, and what it was told, beside what lies there anyway.
  assert 0 <= most - _memory.live_bytes() < 10_000


def test_the_command_writes_what_it_prints(tmp_path, capsys):
  out = tmp_path / 'rollout.json'
  arguments = ['bench', 'rollout', '--model=tiny', '--trace=search_r1', '--trajectories=2']
  arguments += ['--latency_s=0', '--repeats=1', '--modes=resume,lockstep+reprefill', '--slots=2']
  arguments += ['--step_context=9,70']
  assert cli.main([*arguments, f'--json={out}']) == 0, capsys.readouterr().err
  found = json.loads(out.read_text())
  assert list(found['modes']) == ['resume', 'lockstep+reprefill']
  for figures in found['modes'].values():
    assert figures['compiles_after_warmup'] == 0 and len(figures['runs']) == 1
    assert 0 < figures['live_mb'] < found['peak_memory_mb']
  assert [step['context'] for step in found['steps']] == [9, 70] and found['sync']['compiles'] == 0
  printed = capsys.readouterr().out
  for figure in (
    f'{found["modes"]["resume"]["trajectories_per_s"]:.3g}',
    f'{found["steps"][1]["seconds"] * 1e3:.2f}',
    f'are there in {found["sync"]["seconds"] * 1e3:.1f} ms',
  ):
    assert figure in printed


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    ('--modes=resum', "--modes has 'resum'; allowed: resume, reprefill"),
    ('--trace=search', "--trace is 'search'; allowed: search_r1"),
    ('--model=50b', "no model '50b'"),
    ('--trace=there/is_none.jsonl', "--trace is 'there/is_none.jsonl'; allowed: an existing file"),
    ('--slots=0', '--slots'),
    ('--step_context=200,x', "--step_context is '200,x'; give lengths"),
    ('--step_context=0', "--step_context is '0'"),
    ('--cache=foo', "--cache is 'foo'; allowed: blocked, cudnn, dense, native, paged, ragged."),
    (
      '--cache=paged --block_tokens=16 --extend_tokens=64',
      '--block_tokens is 16; allowed: at least --extend_tokens = 64, with a cache in blocks.',
    ),
    (
      '--cache=native --tensor=2',
      "--tensor is 2; allowed: 1, with --cache='native', which uses all cores",
    ),
    (
      '--cache=blocked --tensor=3',
      '--tensor is 3; allowed: a divisor of 1792, the hidden size of 50m.',
    ),
    ('--cache=blocked --tensor=896', '--tensor is 896, but there are'),
  ],
)
def test_bad_input_is_one_paragraph(arguments, told, capsys):
  jax.devices()  # Once JAX has started, a CPU cannot be made into more devices.
  assert cli.main(['bench', 'rollout', *arguments.split()]) == 2
  assert told in capsys.readouterr().err


@pytest.mark.slow
def test_heads_that_cannot_be_split_are_whole_on_every_device(tmp_path):
  """With two key heads, in a process whose XLA_FLAGS pretend another number of devices."""
  trace = tmp_path / 'short.jsonl'
  trace.write_text('{"question": 0, "prompt": 9, "turns": [{"policy": 6}]}\n')
  command = [sys.executable, '-m', 'jaxsearch', 'bench', 'rollout', f'--trace={trace}']
  command += ['--model=tiny', '--cache=blocked', '--tensor=16', '--slots=1', '--extend_rows=1']
  command += ['--decode_steps=2', '--repeats=1', '--modes=resume']
  env = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert 'resume' in done.stdout
