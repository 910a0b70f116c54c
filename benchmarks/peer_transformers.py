"""The two engines of Hugging Face transformers; on a GPU if torch has one."""

from __future__ import annotations

import itertools
import os
import queue
import time
from collections.abc import Sequence
from typing import Any

import peer_weights
from peer_job import Job, Option, TurnByTurn, ids

from jaxsearch.bench.traces import Script
from jaxsearch.models import sizes


class Generate(TurnByTurn):
  """`generate`, a turn of all rows at a time."""

  compiles = False

  @staticmethod
  def options(job: Job) -> list[Option]:
    usual = {'rows': job.rows, 'refill': True, 'cache': 'dynamic', 'threads': os.cpu_count()}
    tried = [{'refill': False}, {}, {'cache': 'static'}, {'rows': job.fewer_rows()}]
    tried += [{'threads': 1}] if _torch_device() == 'cpu' else []
    return [{**usual, **one} for one in tried]

  def __init__(self, job: Job, option: Option):
    self._model, self._vocab = _transformers_model(job)
    self._option = option

  def replay(self, scripts: Sequence[Script]) -> int:
    _set_threads(self._option)
    return super().replay(scripts)

  def _generate(self, contexts: Sequence[list[int]], steps: int) -> list[list[int]]:
    import torch

    width = max(map(len, contexts))
    padded = torch.zeros((len(contexts), width), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for i, context in enumerate(contexts):
      padded[i, width - len(context) :] = torch.tensor(context)
      mask[i, width - len(context) :] = 1
    with torch.inference_mode():
      out = self._model.generate(
        padded.to(self._model.device),
        attention_mask=mask.to(self._model.device),
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        pad_token_id=0,
        use_cache=True,
        cache_implementation=self._option['cache'],
      )
    return out[:, width:].tolist()


class Continuous:
  """Continuous batching: every turn is a request of its own.

  Whole pages of a context that it has seen before are not computed again.
  """

  compiles = False

  @staticmethod
  def options(job: Job) -> list[Option]:
    usual = {'page': 64, 'batch_tokens': 512, 'threads': os.cpu_count()}
    tried = [{}, {'page': 256}, {'batch_tokens': 256}]
    tried += [{'threads': 1}] if _torch_device() == 'cpu' else []
    return [{**usual, **one} for one in tried]

  def __init__(self, job: Job, option: Option):
    import transformers

    model, self._vocab = _transformers_model(job)
    self._rows, self._option = job.rows, option
    # Prompts of an earlier replay must not be found in the cache.
    self._replays = itertools.count()
    pages = -(-job.longest // option['page'])
    # Left to itself it allocates most of a CPU's memory, and takes a minute for that.
    self._manager = model.init_continuous_batching(
      generation_config=transformers.GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0, max_new_tokens=64
      ),
      continuous_batching_config=transformers.ContinuousBatchingConfig(
        page_size=option['page'],
        num_blocks=(job.rows + 1) * (pages + 1),
        max_batch_tokens=option['batch_tokens'],
        max_requests_per_batch=job.rows,
      ),
    )
    self._manager.start()

  def replay(self, scripts: Sequence[Script]) -> int:
    _set_threads(self._option)
    seed, total = next(self._replays), 0
    waiting, running = list(enumerate(scripts)), {}
    due: queue.PriorityQueue = queue.PriorityQueue()

    def ask(place: int, script: Script, turn: int, context: list[int]) -> None:
      name = self._manager.add_request(context, max_new_tokens=script.turns[turn].policy)
      running[name] = place, script, turn, context

    while waiting or running or not due.empty():
      while waiting and len(running) + due.qsize() < self._rows:
        place, script = waiting.pop(0)
        ask(place, script, 0, ids(self._vocab, script.prompt, seed, script.question))
      while not due.empty() and due.queue[0][0] <= time.monotonic():
        ask(*due.get()[1:])
      result = self._manager.get_result(timeout=0.01)
      self._require_health(result)
      if result is None or not result.is_finished():
        continue
      place, script, turn, context = running.pop(result.request_id)
      total += len(result.generated_tokens)
      if turn + 1 < len(script.turns):
        seen = ids(self._vocab, script.turns[turn].observation, seed, place, turn)
        then = context + list(result.generated_tokens) + seen
        at = time.monotonic() + script.turns[turn].latency_s
        due.put((at, place, script, turn + 1, then))
    return total

  def close(self) -> None:
    # Its thread would keep the process alive.
    self._manager.stop(block=True, hard_stop=True)

  def _require_health(self, result: Any) -> None:
    if result is not None and result.error:
      raise RuntimeError(f'continuous batching failed in {result.request_id}: {result.error}')
    if not self._manager.is_running():
      raise RuntimeError('the thread of continuous batching has ended; its log says why.')


def _transformers_model(job: Job) -> tuple[Any, int]:
  """(the model on the best device that torch has, its vocabulary)."""
  size = sizes.find(job.model)
  params = peer_weights.ours(size)
  made = peer_weights.transformers_model(size, params, dtype=job.dtype, device=_torch_device())
  return made, size.vocab


def _torch_device() -> str:
  import torch

  return 'cuda' if torch.cuda.is_available() else 'cpu'


def _set_threads(option: Option) -> None:
  """Of the whole process: whoever ran before may have set another number."""
  import torch

  torch.set_num_threads(option['threads'])
