"""What a bad retriever costs: the quick start's training with a healthy and with a failing pool.

  bash launch/quickstart.sh
  .venv/bin/python benchmarks/faulty_training.py --seeds=0,1 --json=FILE

Both runs of a pair start from the quick start's warm start with the same seed. In one, 10 % of
searches fail and 10 % take 50 times as long when they are first asked, and every 20 s one worker of
the pool is killed. Both policies are then tested with the healthy retriever, on the same questions.
Needs a finished quick start, for its world, indexes and warm start.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import threading

import psutil

FAULTS = {'error': 0.1, 'slow': 0.1, 'slow_times': 50, 'latency_s': [0.02, 0.02], 'once': True}
KILL_EVERY_S = 20.0
COUNTED = (
  *('search/count', 'search/retries', 'search/hedges', 'search/worker_restarts'),
  *('search/from_cache', 'search/coalesced', 'search/failures/error', 'search/failures/worker'),
  *('search/outcome/ok', 'search/outcome/empty', 'search/outcome/error', 'search/outcome/timeout'),
  'group/rollouts',
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--run', default='runs/quickstart', help='folder of a finished quick start')
  parser.add_argument('--size', default='default', help='that it was made with')
  parser.add_argument('--seeds', default='0')
  parser.add_argument('--out', default='runs/faulty_training')
  parser.add_argument('--json', default='')
  arguments = parser.parse_args()
  out = pathlib.Path(arguments.out)
  shutil.rmtree(out, ignore_errors=True)
  pairs = [
    {kind: _measure(arguments, out, int(seed), kind) for kind in ('healthy', 'faulty')}
    for seed in arguments.seeds.split(',')
  ]
  for seed, pair in zip(arguments.seeds.split(','), pairs, strict=True):
    gap = pair['faulty']['exact_match'] - pair['healthy']['exact_match']
    print(f'\nseed {seed}: exact match {gap:+.4f} with the failing pool')
    for name in pair['healthy']:
      print(f'  {name:<26}' + ''.join(f'{pair[kind][name]:>12.4g}' for kind in pair))
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(pairs, indent=2) + '\n')


def _measure(arguments: argparse.Namespace, out: pathlib.Path, seed: int, kind: str) -> dict:
  """Trains, tests, and gives the figures of both."""
  run, folder = pathlib.Path(arguments.run), out / f'{kind}{seed}'
  config = [
    f'--config=configs/quickstart.py:{arguments.size},{run},{folder}',
    f'--config.seed={seed}',
    '--config.retrieval.workers=2',
  ]
  training = ['train', *config]
  if kind == 'faulty':
    index = shutil.copytree(run / 'index' / 'train', out / f'index{seed}')
    (index / 'faults.json').write_text(json.dumps(FAULTS))
    training += ['--config.retrieval.backend=faulty', f'--config.retrieval.index={index}']
  killed = _run(training, seed if kind == 'faulty' else None)
  _run(
    [
      *('eval', *config, f'--policy={folder}/policy', f'--out={folder}/eval'),
      *(f'--questions={run}/world/test/questions.jsonl', f'--index={run}/index/test'),
    ]
  )
  scores = json.loads((folder / 'eval' / 'summary.json').read_text())
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  totals = {name: sum(step.get(name, 0.0) for step in steps) for name in COUNTED}
  return {
    'exact_match': scores['em'],
    'questions': scores['n'],
    'workers killed': killed,
    'trajectories lost': sum(
      step.get('episode/termination/infra', 0.0) * step.get('group/rollouts', 0.0) for step in steps
    ),
    'worst p99 of a search, s': max(step.get('search/latency_s/p99', 0.0) for step in steps),
    'training, s': sum(step.get('timing_s/step', 0.0) for step in steps),
    **totals,
  }


def _run(arguments: list[str], killer_seed: int | None = None) -> int:
  """Runs a verb; with a seed kills one of its retrieval workers now and then. Returns how many."""
  command = [sys.executable, '-m', 'jaxsearch', *arguments]
  print('+', *command[1:], flush=True)
  killed = 0
  with subprocess.Popen(command) as process:
    draw, over = random.Random(killer_seed), threading.Event()
    while killer_seed is not None and process.poll() is None:
      over.wait(KILL_EVERY_S)
      workers = [p for p in psutil.Process(process.pid).children() if _is_worker(p)]
      if workers and process.poll() is None:
        draw.choice(workers).kill()
        killed += 1
  if process.returncode:
    sys.exit(f'{arguments[0]} ended with code {process.returncode}')
  return killed


def _is_worker(process: psutil.Process) -> bool:
  try:
    return 'jaxsearch.retrieval.pooling.worker' in process.cmdline()
  except psutil.Error:
    return False  # It has just ended.


if __name__ == '__main__':
  main()
