"""Our engine and other people's on one trace, side by side, in turn.

  pip install -e ".[peers]"
  python benchmarks/peers.py --trace=search_r1 --rows=8 --json=peers.json

Each engine is a process of its own, so that none of them shapes another's threads or memory; it
first tries each of its options on the beginning of the trace, two turns of the first trajectories,
and keeps the fastest. Then all of them replay the trace in turn. Engines on torch take a GPU if
there is one, as ours does. google-tunix needs another version of transformers: install it elsewhere
and name that interpreter, `--tunix_python=FOLDER/bin/python`.

`--check` only looks whether the engines that are named compute what ours computes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

from jaxsearch.bench import traces

_ENGINES = flags.DEFINE_list('engines', ['ours', 'transformers'], 'In turn; see peer_engines.py.')
_TRACE = flags.DEFINE_string('trace', 'search_r1', 'A shape, or a file of a trace.')
_TRAJECTORIES = flags.DEFINE_integer('trajectories', 16, 'Of the trace.', 1)
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows that an engine may hold at a time.', 1)
_LATENCY = flags.DEFINE_float('latency_s', 0.2, 'Of a search.', 0.0)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of every engine; medians are shown.', 1)
_MODEL = flags.DEFINE_string('model', '50m', 'Name in jaxsearch/models/sizes.py.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'All of it.')
_SWEEP = flags.DEFINE_bool('sweep', True, 'Try all options of an engine, not only its first.')
_CHECK = flags.DEFINE_bool('check', False, 'Compare logits with ours instead.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
_TUNIX = flags.DEFINE_string('tunix_python', sys.executable, 'Interpreter that has google-tunix.')
_WORKER = flags.DEFINE_string('worker', '', 'Internal: the engine that this process is.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOLD = ('trace', 'trajectories', 'rows', 'latency_s', 'model', 'dtype', 'sweep', 'check')
# Largest difference of logits of about 1 in float32.
_TOLERANCE = 1e-4


class Worker:
  """A process that holds one engine, and replays the trace once a line."""

  def __init__(self, name: str):
    self.name = name
    told = [f'--{flag}={flags.FLAGS[flag].value}' for flag in _TOLD]
    env = {**os.environ, 'PYTHONPATH': str(_ROOT)}
    if name.startswith('transformers'):
      env['JAX_PLATFORMS'] = 'cpu'  # JAX makes the weights; the device is for torch.
    self._process = subprocess.Popen(
      [_TUNIX.value if name == 'tunix' else sys.executable, __file__, *told, f'--worker={name}'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=env,
    )
    self.told = self._answer()

  def replay(self) -> float:
    """Seconds of one replay."""
    self._process.stdin.write('go\n')
    self._process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()

  def _answer(self) -> Any:
    for line in self._process.stdout:
      if line.startswith('peer: '):
        return json.loads(line.removeprefix('peer: '))
    raise SystemExit(f'{self.name} ended with code {self._process.wait()}; it says why above.')


def main(argv: list[str]) -> None:
  del argv
  if _WORKER.value:
    _check(_WORKER.value) if _CHECK.value else _work(_WORKER.value)
  elif _CHECK.value:
    _check_all()
  else:
    _compare()


def _compare() -> None:
  scripts = traces.open_trace(_TRACE.value, _TRAJECTORIES.value, _LATENCY.value)
  workers = [Worker(name) for name in _ENGINES.value]
  seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
  for _ in range(_REPEATS.value):
    for worker in workers:
      seconds[worker.name].append(worker.replay())
  found = {flag: flags.FLAGS[flag].value for flag in ('trace', 'rows', 'model', 'dtype')}
  found['engines'] = {}
  first = statistics.median(seconds[workers[0].name])
  for worker in workers:
    median = statistics.median(seconds[worker.name])
    found['engines'][worker.name] = {
      **worker.told,
      'trajectories_per_s': len(scripts) / median,
      'policy_tokens_per_s': sum(script.policy for script in scripts) / median,
      'seconds': seconds[worker.name],
    }
    print(
      f'{worker.name:<24} {len(scripts) / median:7.3f} trajectories/s, '
      f'{median / first:5.2f} times the seconds of {workers[0].name}; {worker.told["option"]}'
    )
    worker.close()
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2))


def _check_all() -> None:
  wrong = []
  for name in _ENGINES.value:
    if name != 'ours':
      worker = Worker(name)
      worker.close()
      print(f'{name:<24} logits differ from ours by {worker.told["difference"]:.1e} at most')
      wrong += [name] if not worker.told['difference'] < _TOLERANCE else []
  if wrong:
    raise SystemExit(f'{", ".join(wrong)}: not the same policy; allowed: {_TOLERANCE:.0e}.')


def _check(name: str) -> None:
  import peer_weights

  _say({'difference': max(peer_weights.difference(name, size) for size in peer_weights.CHECKED)})


def _work(name: str) -> None:
  """Keeps the fastest option of an engine and replays as often as it is asked."""
  import peer_engines
  import peer_job

  scripts = traces.open_trace(_TRACE.value, _TRAJECTORIES.value, _LATENCY.value)
  job = peer_job.Job(_MODEL.value, _DTYPE.value, _ROWS.value, scripts)
  make = peer_engines.ENGINES[name]
  options = make.options(job)
  tried = [_tried(make, job, option) for option in options] if _SWEEP.value else []
  option = min(tried, key=lambda one: one['seconds'])['option'] if tried else options[0]
  with contextlib.closing(make(job, option)) as engine:
    # Every shape of the trace, where a new one compiles; else only what starting takes.
    engine.replay(scripts if make.compiles else _beginning(scripts)[:1])
    _say({'option': option, 'tried': tried})
    for _ in sys.stdin:
      _say(_seconds(engine, scripts))


def _tried(make: Any, job: Any, option: dict[str, Any]) -> dict[str, Any]:
  """An option, and what it takes over the beginning of the trace."""
  beginning = _beginning(job.scripts)
  with contextlib.closing(make(job, option)) as engine:
    engine.replay(beginning if make.compiles else beginning[:1])
    return {'option': option, 'seconds': _seconds(engine, beginning)}


def _beginning(scripts: list[traces.Script]) -> list[traces.Script]:
  """Two turns of as many trajectories as there are rows."""
  cut = []
  for script in scripts[: _ROWS.value]:
    first, *more = script.turns[:2]
    cut.append(
      dataclasses.replace(script, turns=(first, *(traces.Turn(turn.policy) for turn in more)))
    )
  return cut


def _seconds(engine: Any, scripts: list[traces.Script]) -> float:
  start = time.perf_counter()
  sampled = engine.replay(scripts)
  seconds = time.perf_counter() - start
  expected = sum(script.policy for script in scripts)
  assert sampled == expected, f'{sampled} tokens were sampled, the trace has {expected}'
  return seconds


def _say(answer: Any) -> None:
  print('peer: ' + json.dumps(answer), flush=True)


if __name__ == '__main__':
  app.run(main)
