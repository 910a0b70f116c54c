"""Texts a second of our encoder and of transformers, by batch and length, on the CPU.

  pip install -e ".[peers]"
  python benchmarks/encoder.py --folder=ENCODER --json=encoder.json

Both read the same folder and do the same: text in, vectors of length 1 out, tokenizer included.
Each engine is a process of its own with as many threads as there are cores; they take turns, cell
by cell, and the median of all calls counts; so does the least processor time of a call, which other
people's load on the machine changes little. `transformers` is its BertModel on torch with the
attention that it takes by itself. Vectors are compared before anything is timed.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

_FOLDER = flags.DEFINE_string('folder', None, 'Hugging Face folder of an encoder.', required=True)
_ENGINES = flags.DEFINE_list(
  'engines', ['ours', 'ours:bfloat16', 'transformers', 'transformers:bfloat16'], 'In turn.'
)
_BATCHES = flags.DEFINE_list('batches', ['1', '64'], 'Texts of a call.')
_LENGTHS = flags.DEFINE_list('lengths', ['16', '32', '128'], 'Tokens of each text.')
_TURNS = flags.DEFINE_integer('turns', 3, 'How often every engine has its turn.', 1)
_SECONDS = flags.DEFINE_float('seconds', 2.0, 'Of a turn, at least three calls.', 0.0)
_JSON = flags.DEFINE_string('json', '', 'File to write the figures to.')
_WORKER = flags.DEFINE_string('worker', '', 'Internal: the engine that this process is.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Cosine of the vectors of two engines: of the same type, and of bfloat16 to float32.
_ALIKE = {'float32': 0.99999, 'bfloat16': 0.999}

Encode = Callable[[list[str]], np.ndarray]


class Worker:
  """A process that holds one engine, and answers a line with a line."""

  def __init__(self, name: str):
    env = {**os.environ, 'PYTHONPATH': str(_ROOT), 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, __file__, f'--folder={_FOLDER.value}', f'--worker={name}']
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )

  def ask(self, **what: Any) -> Any:
    self._process.stdin.write(json.dumps(what) + '\n')
    self._process.stdin.flush()
    for line in self._process.stdout:
      if line.startswith('engine: '):
        return json.loads(line.removeprefix('engine: '))
    raise SystemExit(f'an engine ended with code {self._process.wait()}; it says why above.')

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()


def main(argv: list[str]) -> None:
  del argv
  if _WORKER.value:
    _work(_OPEN[_WORKER.value.partition(':')[0]](_WORKER.value.partition(':')[2] or 'float32'))
  else:
    _compare()


def _compare() -> None:
  workers = {name: Worker(name) for name in _ENGINES.value}
  _check({name: worker.ask(vectors=_texts(5, 24)) for name, worker in workers.items()})
  found = []
  for batch, length in itertools.product(map(int, _BATCHES.value), map(int, _LENGTHS.value)):
    calls: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for _, (name, worker) in itertools.product(range(_TURNS.value), workers.items()):
      calls[name] += worker.ask(batch=batch, length=length, seconds=_SECONDS.value)
    for name, seconds in calls.items():
      median = statistics.median(wall for wall, _ in seconds)
      least = min(processor for _, processor in seconds)
      row = {'engine': name, 'batch': batch, 'length': length, 'calls': len(seconds)}
      row |= {'p50_ms': 1e3 * median, 'texts_per_s': batch / median, 'processor_ms': 1e3 * least}
      found.append(row)
      print(
        f'{name:<24} {batch:3} x {length:3} tokens: {batch / median:8.1f} texts/s, '
        f'p50 {1e3 * median:8.2f} ms, processor {1e3 * least:8.2f} ms'
      )
  for worker in workers.values():
    worker.close()
  if _JSON.value:
    told = {'folder': _FOLDER.value, 'cores': len(os.sched_getaffinity(0)), 'figures': found}
    pathlib.Path(_JSON.value).write_text(json.dumps(told, indent=2) + '\n')


def _check(vectors: dict[str, list[list[float]]]) -> None:
  (first, expected), *others = vectors.items()
  for name, found in others:
    alike = float((np.array(expected) * np.array(found)).sum(1).min())
    least = min(_ALIKE[one.partition(':')[2] or 'float32'] for one in (first, name))
    if alike < least:
      raise SystemExit(f'{first} and {name} differ: cosine {alike}')


def _work(encode: Encode) -> None:
  for line in sys.stdin:
    asked = json.loads(line)
    if 'vectors' in asked:
      print('engine:', json.dumps(encode(asked['vectors']).tolist()), flush=True)
      continue
    texts = _texts(asked['batch'], asked['length'])
    encode(texts)
    seconds: list[tuple[float, float]] = []
    end = time.perf_counter() + asked['seconds']
    while len(seconds) < 3 or time.perf_counter() < end:
      start, processor = time.perf_counter(), time.process_time()
      encode(texts)
      seconds.append((time.perf_counter() - start, time.process_time() - processor))
    print('engine:', json.dumps(seconds), flush=True)


def _texts(count: int, length: int) -> list[str]:
  """Of exactly `length` tokens with the two special ones, each text another one."""
  words = ('what', 'lies', 'near', 'the', 'river', 'and', 'who', 'wrote', 'its', 'name')
  rng = np.random.default_rng(0)
  return [' '.join(rng.choice(words, length - 2)) for _ in range(count)]


def _ours(dtype: str) -> Encode:
  from jaxsearch.encoding import text_encoder

  made = text_encoder.open(_FOLDER.value, dtype)
  return lambda texts: made.encode(texts, 'passage')


def _transformers(dtype: str) -> Encode:
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tokenizer = transformers.AutoTokenizer.from_pretrained(_FOLDER.value)
  model = transformers.AutoModel.from_pretrained(_FOLDER.value, dtype=getattr(torch, dtype)).eval()

  def encode(texts: list[str]) -> np.ndarray:
    told = tokenizer(texts, padding=True, truncation=True, return_tensors='pt')
    with torch.inference_mode():
      states = model(**told).last_hidden_state.float()
    mask = told['attention_mask'][..., None].float()
    mean = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean).numpy()

  return encode


_OPEN = {'ours': _ours, 'transformers': _transformers}


if __name__ == '__main__':
  app.run(main)
