"""Plans: operations against counts by hand, what is read from compiled programs, the verdict."""

import dataclasses
import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.experimental import pallas as pl

from jaxsearch import cli, config
from jaxsearch.models import remat, sizes
from jaxsearch.models.decoder import Size
from jaxsearch.plan import (
  _groups,
  chips,
  estimates,
  figures,
  operations,
  programs,
  traffic,
  verdict,
)
from jaxsearch.plan.hlo import Program
from jaxsearch.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
SIZE = Size(512, 3, 64, heads=4, kv_heads=2, head_size=128, hidden=96, tied_embeddings=False)
T, ROWS, CONTEXT, SLOTS = 1024, 4, 900, 6


def make_config(attention='xla', cache='dense', **policy):
  c = config.Config()
  c.policy = config.Policy(path='nowhere', dtype='bfloat16', attention=attention, **policy)
  c.algo.kl_coef = 0.001
  c.rollout = config.Rollout(
    slots=SLOTS,
    context_tokens=CONTEXT,
    extend_rows=2,
    extend_tokens=32,
    block_tokens=64,
    cache=cache,
  )
  c.learner = config.Learner(buckets=(T,), tokens_per_microbatch=ROWS * T, logprob_chunk=256)
  return c


def build(c, size=SIZE):
  return programs.build(c, size, jax.devices()[:1], jax.devices()[:1])


def by_hand(size, tokens, *, seen, head):
  """(projections, attention, output head) of one pass over tokens that see so many keys."""
  heads, kv = size.heads * size.head_size, size.kv_heads * size.head_size
  layer = size.embed * (2 * heads + 2 * kv) + 3 * size.embed * size.hidden
  return (
    2 * tokens * size.layers * layer,
    4 * tokens * size.layers * heads * seen,
    2 * head * size.vocab * size.embed,
  )


# --- Operations -----------------------------------------------------------------------------------


@pytest.mark.parametrize('attention', ['xla', 'splash'])
@pytest.mark.parametrize('remat', ['full', 'none'])
def test_operations_of_the_learner_are_those_counted_by_hand(attention, remat):
  found = {p.name: p for p in build(make_config(attention, remat=remat)).programs}
  # Both look at the blocks up to the diagonal, of 128 and of 512 tokens.
  seen = (T + {'xla': 128, 'splash': 512}[attention]) / 2
  matrices, attended, head = by_hand(SIZE, ROWS * T, seen=seen, head=ROWS * T)
  assert found['reference'].operations == pytest.approx(matrices + attended + head, rel=0.005)
  # Backward: twice. Computed again: the logits, with remat all layers but their last product, which
  # nobody needs. The kernels of splash compute scores and their gradients twice: 7 products, not 4.
  last = 2 * ROWS * T * SIZE.layers * SIZE.hidden * SIZE.embed
  backward = 2 * attended if attention == 'xla' else 3.5 * attended
  again = (matrices - last + attended) * (remat == 'full')
  expected = 3 * matrices + attended + backward + again + 4 * head
  assert found['update'].operations == pytest.approx(expected, rel=0.005)
  assert found['update'].useful == pytest.approx(3 * (matrices + attended + head), rel=0.005)


def test_a_kernel_without_a_formula_is_told():
  def twice(x):
    body = lambda x_ref, y_ref: y_ref.__setitem__(..., 2 * x_ref[...])
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(body, out_shape=out, interpret=True, name='doubled')(x)

  traced = jax.jit(twice).trace(np.ones(8, np.float32))
  with pytest.raises(UserError, match="kernel 'doubled' cannot be counted; known: splash_mha_fwd"):
    operations.count(traced.jaxpr.jaxpr, 0)


def test_every_kind_of_recomputation_has_an_estimate():
  """Between keeping a layer's input and all that it makes."""
  names = [name for name, _ in inspect.getmembers(remat, inspect.isfunction)]
  kept = {name: estimates._kept(SIZE, 1, 2, name) for name in names}
  assert (
    len(kept) == 4 and min(kept.values()) == kept['full'] and max(kept.values()) == kept['none']
  )


@pytest.mark.parametrize('cache', ['dense', 'ragged'])
def test_operations_of_the_engine_are_those_counted_by_hand(cache):
  found = {p.name: p for p in build(make_config(cache=cache)).programs}
  # The reference reads the whole cache, with room for a chunk; the kernel a full row.
  seen = CONTEXT + 32 if cache == 'dense' else CONTEXT
  assert found['decode'].operations == sum(by_hand(SIZE, SLOTS, seen=seen, head=SLOTS))
  assert found['extend'].operations == sum(by_hand(SIZE, 2 * 32, seen=seen, head=0))


@pytest.mark.slow
def test_operations_of_seven_billion_parameters():
  c = config.read(f'{ROOT}/configs/research_qwen2p5_7b.py:h100')
  c.mesh = config.Mesh()
  c.policy.attention, c.rollout.cache = 'splash', 'ragged'
  size, length = sizes.find('qwen2p5_7b'), c.learner.buckets[-1]
  run = build(c, size)
  found = {p.name: p for p in run.programs}
  assert run.parameters == 7_615_616_512  # As Qwen publishes it: 7.61 billion.
  tokens = run.rows * length
  matrices, attended, head = by_hand(size, tokens, seen=length / 2, head=tokens)
  assert found['reference'].operations == pytest.approx(matrices + attended + head, rel=0.02)


# --- What is read from compiled programs ----------------------------------------------------------


def _run(*command, **environment):
  return subprocess.run(
    [sys.executable, *command],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def test_collectives_and_memory_of_eight_devices():
  """Pretend ones, in a process of their own: see plan_worker.py."""
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
  done = _run('tests/plan_worker.py', XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines()[-1] == 'counted'


LOOP = """
%add (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %s = f32[] add(%l, %r)
}

%all-reduce-scatter.1 (p: f32[8,16]) -> f32[8,4] {
  %p = f32[8,16]{1,0} parameter(0)
  %sum = f32[8,16]{1,0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %own = f32[8,4]{1,0} dynamic-slice(%sum, %p), dynamic_slice_sizes={8,4}
}

%condition (c: (s32[], f32[8,16])) -> pred[] {
  %c = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (b: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %b = (s32[], f32[8,16]{1,0}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%b), index=1
  %part = f32[8,4]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %moved = f32[8,4]{1,0} collective-permute(%part), source_target_pairs={{0,4},{4,0}}
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%x, %moved)
}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %two = s32[] constant(2)
  %start = (s32[], f32[8,16]{1,0}) tuple(%two, %a)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body
  %copy = (f32[8,16]{1,0:T(8,128)S(1)}, f32[8,16]{1,0}, u32[]) copy-start(%a)
  %some = ((f32[8,16]{1,0}), f32[2,16]{1,0:T(8,128)S(1)}, s32[]) slice-start(%a), slice={[0:2]}
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('replica_groups={{0,2},{1,3}}, x', ((0, 2), (1, 3))),
    ('replica_groups={}, x', ((0, 1, 2, 3),)),
    ('replica_groups=[2,2]<=[4], x', ((0, 1), (2, 3))),
    ('replica_groups=[2,2]<=[2,2]T(1,0), x', ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x={b}", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x={b}", ((0, 1, 2, 3),)),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=4] {'a':(1)2}, x", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=4] {'a':(2)2}, x", ((0, 1), (2, 3))),
    ('source_target_pairs={{0,1},{1,0}}, x', ((0, 1), (1, 0))),
  ],
)
def test_groups_of_devices_are_read_in_every_form(text, expected):
  assert _groups.parse(text, 4) == expected


def _mesh(hosts):
  """Of 2 by 4 devices, which are said to be of so many hosts."""
  devices = [types.SimpleNamespace(process_index=i * hosts // 8) for i in range(8)]
  return types.SimpleNamespace(
    devices=np.array(devices, object).reshape(2, 4), axis_names=('fsdp', 'tensor'), size=8
  )


def test_a_program_of_the_tpu_compiler_is_read():
  """Rounds from the condition, scattered sums inside of fusions, memory close to the chip."""
  found = traffic.collectives(Program(LOOP), _mesh(2))
  scatter, permute = sorted(found, key=lambda c: c.kind, reverse=True)
  assert (scatter.kind, scatter.axes, scatter.times) == ('reduce-scatter', 'tensor', 5)
  assert scatter.sent == 5 * 8 * 16 * 4 * 3 / 4
  assert (permute.kind, permute.axes, permute.sent) == ('collective-permute', 'fsdp', 5 * 8 * 4 * 4)
  # Only device 0 and device 4 talk across the border of hosts.
  assert traffic.across_hosts(found, _mesh(2)) == 5 * 8 * 4 * 4
  assert traffic.across_hosts(found, _mesh(1)) == 0
  # What is copied to the chip's own memory is read and not written, of a slice no more than it.
  without = '\n'.join(line for line in LOOP.splitlines() if '-start(' not in line)
  copied = traffic.memory(Program(LOOP), 0) - traffic.memory(Program(without), 0)
  assert copied == (8 + 2) * 16 * 4


# --- The verdict ----------------------------------------------------------------------------------


def _figures(name, **sizes):
  none = dict.fromkeys(
    ('arguments', 'temporaries', 'results', 'aliased', 'code', 'operations', 'useful', 'moved'), 0.0
  )
  return figures.Figures(name, 'a call', **none | sizes)


def test_a_peak_is_what_stays_and_what_a_program_takes():
  run = build(make_config())
  s = run.states
  weights = SIZE.layers * (64 * 2 * 6 * 128 + 3 * 64 * 96) + 2 * 512 * 64
  assert s['parameters'] == pytest.approx(4 * weights, rel=0.02)  # Norms are the rest.
  assert s['moments'] == pytest.approx(2 * s['parameters'], rel=0.01)
  assert s['sampling weights'] == pytest.approx(2 * weights, rel=0.02)
  assert s['cache'] == SLOTS * (CONTEXT + 32) * 2 * 2 * 128 * 2 * SIZE.layers
  made = [
    _figures('update', arguments=100.0, temporaries=30.0, results=20.0, aliased=15.0, code=1.0),
    _figures('decode', arguments=200.0, temporaries=3.0, code=2.0),
  ]
  judged = verdict.judge(run, made, make_config(), chips.TPUS['v6e'])
  beside = s['moments'] + s['reference'] + s['sampling weights'] + s['cache'] + s['batches']
  assert judged.peaks['update'] == 3.0 + beside + 135.0
  beside = s['parameters'] + s['moments'] + s['reference'] + s['batches']
  assert judged.peaks['decode'] == 3.0 + beside + 203.0
  assert judged.fits and judged.largest == 'update'


def test_what_does_not_fit_is_told_with_the_knobs_that_help_most():
  c = make_config()
  run = build(c)
  full = chips.TPUS['v5e'].usable
  judged = verdict.judge(run, [_figures('update', temporaries=full)], c, chips.TPUS['v5e'])
  assert not judged.fits and not judged.refused
  saved = [knob.saved for knob in judged.knobs]
  assert saved == sorted(saved, reverse=True) and min(saved) > 0
  changes = ' '.join(knob.change for knob in judged.knobs)
  assert 'rollout.slots=3' in changes and 'rollout.pages' not in changes
  refused = [dataclasses.replace(_figures('decode'), refusal='out of memory')]
  assert not verdict.judge(run, refused, c, chips.TPUS['v5e']).fits


def test_the_roofline_is_the_slowest_of_three():
  chip = dataclasses.replace(chips.TPUS['v5p'], flops=10.0, bandwidth=5.0, link=2.0)
  one = _figures('update', operations=100.0, useful=60.0, moved=40.0)
  assert one.times(chip) == {'products': 10.0, 'memory': 8.0, 'links': 0.0}
  assert (one.seconds(chip), one.mfu(chip)) == (10.0, 0.6)
  talk = traffic.Collective('all-gather', ((4,),), 16.0, 5.0, ((0, 1, 2, 3),), 'fsdp')
  one = dataclasses.replace(one, collectives=(talk,))
  assert one.seconds(chip) == 5 * 16 * 3 / 4 / 2
  assert one.mfu(chip) == pytest.approx(0.2)


# --- The command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'either --topology'),
    (['--topology=v5p:2x2x2', '--devices=8'], 'either --topology'),
    (['--topology=v5x:2x2x2', '--model=tiny'], "Did you mean 'v5p'"),
    (['--topology=v5p', '--model=tiny'], 'v5p:2x2x2'),
    (['--devices=1', '--chip=b300', '--model=tiny'], 'a100, h100, h200'),
    (['--devices=1'], 'qwen2p5_7b'),
    (['--devices=1', '--model=qwen'], 'there is no model'),
    (['--devices=1', '--model=tiny', '--config.rollout.slots=0'], 'rollout.slots'),
  ],
)
def test_what_cannot_be_planned_is_told_in_a_paragraph(arguments, message, capsys, tmp_path):
  file = tmp_path / 'c.py'
  file.write_text('from jaxsearch.config import *\ndef get_config():\n  return Config()\n')
  assert cli.main(['plan', f'--config={file}', *arguments]) == 2
  told = capsys.readouterr().err
  assert message in told and 'Traceback' not in told


@pytest.mark.skipif(bool(importlib.util.find_spec('libtpu')), reason='the compiler is installed')
def test_without_the_compiler_of_tpus_it_is_told_how_to_get_it(capsys, tmp_path):
  file = tmp_path / 'c.py'
  file.write_text('from jaxsearch.config import *\ndef get_config():\n  return Config()\n')
  assert cli.main(['plan', f'--config={file}', '--topology=v5p:2x2x2', '--model=tiny']) == 2
  assert 'pip install "jax[tpu]"' in capsys.readouterr().err


def test_kernels_of_other_hardware_are_refused(capsys, tmp_path):
  file = tmp_path / 'c.py'
  text = "def get_config():\n  c = Config()\n  c.rollout.cache = 'ragged'\n  return c\n"
  file.write_text(f'from jaxsearch.config import *\n{text}')
  assert cli.main(['plan', f'--config={file}', '--devices=1', '--model=tiny']) == 2
  assert "rollout.cache is 'ragged'" in capsys.readouterr().err


def _plan(*arguments):
  return _run('-m', 'jaxsearch', 'plan', *arguments)


def test_eight_gpus_are_counted(tmp_path):
  """The states exactly, by another way; what the configuration asks for fits."""
  file = tmp_path / 'plan.json'
  done = _plan(
    f'--config={ROOT}/configs/research_qwen2p5_7b.py:h100',
    '--model=tiny',
    '--devices=8',
    f'--json={file}',
    '--config.mesh.sample_tensor=2',
  )
  assert done.returncode == 0, done.stderr
  assert 'Fits: ' in done.stdout and max(map(len, done.stdout.splitlines())) <= 100
  told = json.loads(file.read_text())
  split, whole = 300 * 32 + 2 * (32 * 16 * 12 + 3 * 32 * 64), 2 * 2 * 32 + 32  # Norms are whole.
  assert told['fits'] and told['chips'] == 8
  assert told['states']['parameters'] == 4 * (split / 8 + whole)
  update = next(p for p in told['programs'] if p['name'] == 'update')
  assert update['temporaries'] > 0 and update['peak'] > sum(told['states'].values()) / 2


@pytest.mark.slow
def test_a_slice_is_compiled_for(tmp_path):
  """A small policy on four hosts: everything compiles, nothing whole is gathered, and it fits."""
  pytest.importorskip('libtpu', reason='pip install -e ".[tpu]" brings the compiler')
  file = tmp_path / 'plan.json'
  arguments = (
    f'--config={ROOT}/configs/research_qwen2p5_7b.py',
    '--model=tiny',
    '--topology=v6e:4x4',
    '--config.mesh.tensor=2',
    '--config.mesh.sample_tensor=2',
    '--config.rollout.context_tokens=1024',
    '--config.rollout.policy_tokens=512',
    '--config.learner.buckets=(1024,)',
    '--config.learner.tokens_per_microbatch=8192',
    '--config.rollout.slots=16',
  )
  done = _plan(*arguments, f'--json={file}')
  assert done.returncode == 0, done.stderr[-3000:]
  told = json.loads(file.read_text())
  found = {p['name']: p for p in told['programs']}
  assert told['fits'] and 'Fits: ' in done.stdout
  assert not any(p['whole'] for p in told['programs'])
  assert any('fsdp' in key for key in found['update']['sent'])
  assert {key.split()[-1] for key in found['decode']['sent']} == {'tensor'}
  assert found['decode']['aliased'] >= told['states']['cache']
  full = _plan(*arguments, '--config.rollout.pages=400000')
  assert full.returncode == 0, full.stderr[-3000:]
  assert 'Does not fit' in full.stdout and 'rollout.pages=200000' in full.stdout
