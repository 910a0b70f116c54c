"""Supervised training: a policy learns to speak and to copy, or to play the search engine.

A demonstration is a list of steps, each a thought with a search or with the answer. The protocol
renders them, the real retriever answers the searches, and the resulting contexts have the same
shape as those that the policy will make itself. A simulator learns from the records of real
searches instead (`collection.py`). The update is the learner's, with the likelihood as its policy
loss: there is no second training step.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.progress

from jaxsearch import batching, checkpoint, collection, microbatches, plugins, sharding
from jaxsearch import config as config_lib
from jaxsearch.learner import Batch, Learner
from jaxsearch.models import copying, decoder
from jaxsearch.protocols._contract import Protocol
from jaxsearch.retrieval.pool import Pool
from jaxsearch.supervision import Watchdog
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import Context, Kind, Question, SearchRequest, SearchResult, Segment, UserError

# What is learnt -> folder of `run_dir` that it is written to.
TASKS = {'search': 'warmstart', 'simulator': 'simulator'}


def warmstart(config: config_lib.Config, task: str = 'search') -> None:
  """Trains and writes a policy folder, `policy`, below the task's folder of `run_dir`.

  Args:
    config: search learns from `config.warmstart.demonstrations`, simulator from
      `config.warmstart.records`, asked as `config.retrieval` will ask it.
    task: one of `TASKS`.

  Raises:
    UserError: for a broken file, an example that fits no bucket, or a mesh that does not divide the
      devices.
  """
  mesh = sharding.open_mesh(config)
  if task == 'simulator':
    records = collection.read(config.warmstart.records)
    size, params, tokenizer = _start(config, mesh)
    contexts = collection.render(records, config.retrieval, tokenizer)
  else:
    demonstrations = read(config.warmstart.demonstrations)
    size, params, tokenizer = _start(config, mesh)
    protocol = plugins.load('protocols', config.protocol.name).open(config.protocol, tokenizer)
    with Pool(config.retrieval) as pool:
      contexts = render(demonstrations, protocol, tokenizer, pool, config.retrieval.top_k)
  rows = [_weighted(context, config.warmstart.observation_weight) for context in contexts]
  config = _supervised(config)
  learner = Learner(config, size, mesh)
  state = learner.init_state(params)
  del params  # Of which the state is a copy.
  folder = pathlib.Path(config.run_dir) / TASKS[task]
  folder.mkdir(parents=True, exist_ok=True)
  losses, watchdog = [], Watchdog(config.schedule.update_limit_s)
  with rich.progress.Progress(disable=jax.process_index() > 0) as progress:
    bar = progress.add_task('warm start', total=config.warmstart.steps)
    for batch in _batches(rows, config, mesh):
      with watchdog():
        state, metrics = learner.update(state, [learner.place(batch)])
      losses.append(metrics['actor/pg_loss'])
      recent = float(np.mean(losses[-50:]))
      progress.update(bar, advance=1, description=f'warm start  loss {recent:.3f}')
  checkpoint.save_policy(folder / 'policy', size, state.params, tokenizer)
  if jax.process_index() == 0:
    (folder / 'losses.json').write_text(json.dumps([round(loss, 5) for loss in losses]))


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a demonstration file.

  Raises:
    UserError: names file, line and what is wrong with it.
  """
  shape = '{"id", "question", "steps": [{"think", "search"} …, {"think", "answer"}]}'
  demonstrations = []
  with open(path, encoding='utf-8') as file:
    for number, line in enumerate(file, start=1):
      try:
        item = json.loads(line)
        *searches, last = item['steps']
        _ = item['id'], item['question'], last['think'], last['answer']
        _ = [(step['think'], step['search']) for step in searches]
      except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}, line {number}: {error!r}. A line is {shape}.') from error
      demonstrations.append(item)
  if not demonstrations:
    raise UserError(f'{path} holds no demonstration. Each line is {shape}.')
  return demonstrations


def render(
  demonstrations: Sequence[Mapping[str, Any]],
  protocol: Protocol,
  tokenizer: tokenizer_lib.Tokenizer,
  pool: Pool,
  top_k: int,
) -> list[Context]:
  """The contexts that a policy would have made which wrote exactly these steps."""
  answers = _search(demonstrations, pool, top_k)
  contexts = []
  for index, item in enumerate(demonstrations):
    question = Question(item['id'], item['question'], tuple(item.get('golden_answers', ())))
    segments = [Segment(Kind.PROMPT, protocol.prompt_ids(question))]
    for turn, step in enumerate(item['steps']):
      ids = tokenizer.encode(protocol.render_step(step))
      if 'answer' in step:
        ids = np.append(ids, tokenizer.eos_ids[0]).astype(np.int32)
      segments.append(Segment(Kind.POLICY, ids, np.zeros(len(ids), np.float32)))
      if 'search' in step:
        result = answers[f'{index}', turn]
        found = max((len(documents) for documents in result.documents), default=0)
        text = protocol.observation(result, found)
        ids = tokenizer.encode(text)
        # Without a stop to search at, the policy recalls what a retriever would have found.
        kind = Kind.OBSERVATION if protocol.stops else Kind.POLICY
        segments.append(
          Segment(kind, ids, None if protocol.stops else np.zeros(len(ids), np.float32))
        )
    contexts.append(Context(tuple(segments)))
  return contexts


def _search(
  demonstrations: Sequence[Mapping[str, Any]], pool: Pool, top_k: int
) -> dict[tuple[str, int], SearchResult]:
  for index, item in enumerate(demonstrations):
    for turn, step in enumerate(item['steps'][:-1]):
      pool.submit(
        SearchRequest(
          trajectory=f'{index}',
          turn=turn,
          attempt=0,
          queries=(step['search'],),
          top_k=top_k,
          question_id=item['id'],
          progress=0.0,
          key=0,
        )
      )
  answers = {}
  while pool.pending:
    answers |= {(request.trajectory, request.turn): r for request, r in pool.poll(1.0)}
  lost = sorted({str(r.outcome) for r in answers.values() if r.outcome.is_infra})
  if lost:
    raise UserError(f'the retriever failed on demonstrations ({", ".join(lost)}); check it first.')
  return answers


def _start(
  config: config_lib.Config, mesh: jax.sharding.Mesh
) -> tuple[decoder.Size, decoder.Params, tokenizer_lib.Tokenizer]:
  if config.warmstart.policy:
    return checkpoint.load_policy(config.warmstart.policy, mesh)
  tokenizer = tokenizer_lib.load(config.model.tokenizer)
  fields = dataclasses.asdict(config.model)
  del fields['tokenizer'], fields['copying_heads']
  size = decoder.Size(vocab=tokenizer.vocab_size, **fields)

  def init(key: jax.Array) -> decoder.Params:
    init_key, copying_key = jax.random.split(key)
    params = decoder.init(init_key, size)
    return copying.outline(params, size, copying_key) if config.model.copying_heads else params

  places = sharding.shardings(jax.eval_shape(init, jax.random.key(0)), decoder.AXES, mesh)
  init = jax.jit(init, out_shardings=places)
  return size, init(jax.random.key(config.seed)), tokenizer


def _supervised(config: config_lib.Config) -> config_lib.Config:
  """The same configuration for the learner, with the likelihood as its loss."""
  config = copy.deepcopy(config)
  config.algo = config_lib.Algo(policy_loss='likelihood')
  config.optimizer = config.warmstart.optimizer
  config.learner.tokens_per_microbatch = config.warmstart.tokens_per_step
  config.rollout.temperature = 1.0
  config.policy.lora_rank = 0
  config.learner.pack = 1
  return config


def _weighted(context: Context, observation_weight: float) -> batching.BatchRow:
  """Policy ids with weight 1, observation ids with less; the weight stands for the advantage."""
  weights = np.concatenate(
    [
      np.full(len(s.ids), {Kind.POLICY: 1.0, Kind.OBSERVATION: observation_weight}.get(s.kind, 0.0))
      for s in context.segments
    ]
  ).astype(np.float32)
  return batching.BatchRow(context, weights > 0, weights)


def _batches(
  rows: Sequence[batching.BatchRow], config: config_lib.Config, mesh: jax.sharding.Mesh
) -> Iterator[Batch]:
  """One batch a step, of rows that share a bucket; every host draws the same and packs its part."""
  rng = np.random.default_rng(config.seed)
  hosts, host = jax.process_count(), jax.process_index()
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  made = 0
  while True:
    order = rng.permutation(len(rows)).tolist()
    lengths = {i: rows[i].context.length for i in order}
    cuts = microbatches.plan([lengths], config.learner, shards)
    for index in rng.permutation(len(cuts)):
      if made == config.warmstart.steps:
        return
      count = cuts[index].rows // hosts
      mine = cuts[index].members[0][host * count : (host + 1) * count]
      made += 1
      yield batching.pack([[rows[i] for _, i in row] for row in mine], cuts[index].bucket, count)
