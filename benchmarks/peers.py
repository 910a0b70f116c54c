"""Our engine and other people's on one trace, side by side, in turn.

  pip install -e ".[peers]"
  python benchmarks/peers.py --trace=search_r1 --rows=8 --json=peers.json

Each engine is a process of its own, so that none of them shapes another's threads or memory; it
first tries each of its options on the beginning of the trace and keeps the fastest. Then all of
them replay the trace in turn. google-tunix needs another version of transformers: install it
elsewhere and name that interpreter, `--tunix_python=FOLDER/bin/python`.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from absl import app, flags

from jaxsearch.bench import traces

_ENGINES = flags.DEFINE_list('engines', ['ours', 'transformers'], 'In turn; see peer_engines.py.')
_TRACE = flags.DEFINE_string('trace', 'search_r1', 'A shape, or a file of a trace.')
_TRAJECTORIES = flags.DEFINE_integer('trajectories', 16, 'Of the trace.', 1)
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows that an engine may hold at a time.', 1)
_LATENCY = flags.DEFINE_float('latency_s', 0.2, 'Of a search.', 0.0)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of every engine; medians are shown.', 1)
_MODEL = flags.DEFINE_string('model', '50m', 'Name in jaxsearch/models/sizes.py.')
_SWEEP = flags.DEFINE_bool('sweep', True, 'Try all options of an engine, not only its first.')
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
_TUNIX = flags.DEFINE_string('tunix_python', sys.executable, 'Interpreter that has google-tunix.')
_WORKER = flags.DEFINE_string('worker', '', 'Internal: the engine that this process is.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]


class Worker:
  """A process that holds one engine, and replays the trace once a line."""

  def __init__(self, name: str):
    python = _TUNIX.value if name == 'tunix' else sys.executable
    told = [f'--{f}={flags.FLAGS[f].value}' for f in ('trace', 'trajectories', 'rows', 'model')]
    told += [f'--latency_s={_LATENCY.value}', f'--worker={name}', f'--sweep={_SWEEP.value}']
    self.name = name
    self._process = subprocess.Popen(
      [python, __file__, *told],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    )
    self.option = self._answer()

  def replay(self) -> float:
    """Seconds of one replay."""
    self._process.stdin.write('go\n')
    self._process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()

  def _answer(self):
    for line in self._process.stdout:
      if line.startswith('peer: '):
        return json.loads(line.removeprefix('peer: '))
    raise SystemExit(f'{self.name} ended with code {self._process.wait()}; it says why above.')


def main(argv: list[str]) -> None:
  del argv
  scripts = traces.open_trace(_TRACE.value, _TRAJECTORIES.value, _LATENCY.value)
  if _WORKER.value:
    _work(_WORKER.value, scripts)
    return
  workers = [Worker(name) for name in _ENGINES.value]
  seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
  for _ in range(_REPEATS.value):
    for worker in workers:
      seconds[worker.name].append(worker.replay())
  found = {'trace': _TRACE.value, 'rows': _ROWS.value, 'model': _MODEL.value, 'engines': {}}
  first = statistics.median(seconds[workers[0].name])
  for worker in workers:
    median = statistics.median(seconds[worker.name])
    found['engines'][worker.name] = {
      'option': worker.option,
      'trajectories_per_s': len(scripts) / median,
      'policy_tokens_per_s': sum(script.policy for script in scripts) / median,
      'seconds': seconds[worker.name],
    }
    print(
      f'{worker.name:<24} {len(scripts) / median:7.3f} trajectories/s, '
      f'{median / first:5.2f} times the seconds of {workers[0].name}; {worker.option}'
    )
    worker.close()
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2))


def _work(name: str, scripts: list[traces.Script]) -> None:
  """Keeps the fastest option of an engine and replays as often as it is asked."""
  import peer_engines

  make = peer_engines.ENGINES[name]
  beginning = scripts[: _ROWS.value]
  best = None
  for option in make.options if _SWEEP.value else make.options[:1]:
    engine = make(_MODEL.value, scripts, _ROWS.value, option)
    engine.replay(beginning)  # Compiles, and warms caches.
    took = _seconds(engine, beginning) if _SWEEP.value else 0.0
    if best is None or took < best[0]:
      best = took, option, engine
  _, option, engine = best
  if len(scripts) > len(beginning):
    engine.replay(scripts)  # Shapes that the beginning did not have.
  print('peer: ' + json.dumps(option), flush=True)
  for _ in sys.stdin:
    print('peer: ' + json.dumps(_seconds(engine, scripts)), flush=True)


def _seconds(engine, scripts: list[traces.Script]) -> float:
  start = time.perf_counter()
  engine.replay(scripts)
  return time.perf_counter() - start


if __name__ == '__main__':
  app.run(main)
