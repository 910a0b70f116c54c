"""benchmarks/: other people's engines hold our weights and do the work of the trace."""

import contextlib
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from jaxsearch.bench.traces import Script, Turn

pytest.importorskip('torch', reason='benchmarks/ compare with engines on torch')
FOLDER = pathlib.Path(__file__).parents[1] / 'benchmarks'
SCRIPTS = [
  Script(0, 9, (Turn(3, 20, 0.05), Turn(4, 11, 0.0), Turn(2))),
  Script(0, 9, (Turn(6),)),
  Script(1, 30, (Turn(1, 40, 0.05), Turn(5))),
  Script(2, 5, (Turn(7, 3, 0.0), Turn(1))),
]


def _import(name):
  sys.path.insert(0, str(FOLDER))
  try:
    return importlib.import_module(name)
  finally:
    sys.path.remove(str(FOLDER))


engines, job, weights = map(_import, ('peer_engines', 'peer_job', 'peer_weights'))
JOB = job.Job('tiny', 'float32', 2, SCRIPTS)


@pytest.mark.parametrize('size', weights.CHECKED, ids=['llama', 'qwen2'])
@pytest.mark.parametrize('peer', ['transformers', 'tunix'])
def test_a_peer_computes_what_we_compute(peer, size):
  pytest.importorskip(peer)
  assert weights.difference(peer, size) < 1e-4


def test_a_peer_has_the_dtype_that_is_asked_for():
  size = weights.CHECKED[0]
  made = weights.transformers_model(size, weights.ours(size), dtype='bfloat16', device='cpu')
  assert {str(p.dtype) for p in made.parameters()} == {'torch.bfloat16'}


@pytest.mark.parametrize('name', ['ours', 'transformers', 'transformers_continuous'])
def test_every_option_of_an_engine_replays_the_trace(name):
  make = engines.ENGINES[name]
  options = make.options(JOB)
  assert 2 <= len(options) <= 5 and len({str(option) for option in options}) == len(options)
  for option in options:
    with contextlib.closing(make(JOB, option)) as engine:
      assert [engine.replay(SCRIPTS), engine.replay(SCRIPTS[1:])] == [29, 20]


def test_continuous_batching_that_fails_is_told():
  make = engines.ENGINES['transformers_continuous']
  with (
    contextlib.closing(make(JOB, make.options(JOB)[0])) as engine,
    pytest.raises(RuntimeError, match='continuous batching'),
  ):
    engine.replay([Script(0, 5000, (Turn(2),))])


@pytest.mark.slow
def test_the_comparison_is_written_down(tmp_path):
  lines = [
    {'question': s.question, 'prompt': s.prompt, 'turns': [vars(turn) for turn in s.turns]}
    for s in SCRIPTS
  ]
  trace, out = tmp_path / 'trace.jsonl', tmp_path / 'peers.json'
  trace.write_text('\n'.join(map(json.dumps, lines)))
  command = [sys.executable, FOLDER / 'peers.py', f'--trace={trace}', f'--json={out}']
  command += ['--model=tiny', '--rows=2', '--repeats=2']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(out.read_text())['engines']
  assert list(found) == ['ours', 'transformers']
  for name, figures in found.items():
    assert len(figures['seconds']) == 2 and min(figures['seconds']) > 0
    tried = {str(one['option']): one['seconds'] for one in figures['tried']}
    assert len(tried) >= 2 and tried[str(figures['option'])] == min(tried.values())
    assert name in done.stdout
