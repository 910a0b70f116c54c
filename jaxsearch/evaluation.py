"""Evaluation: greedy, over every question, the last partial batch included."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import rich.progress

from jaxsearch import checkpoint, files, report, sharding, trajectories
from jaxsearch import config as config_lib
from jaxsearch import questions as questions_lib
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.actor import Actor
from jaxsearch.types import Question, Task, UserError

# Questions between two movements of the progress bar; rollouts drain in between.
_PORTION = 256
BANDS = ('easy', 'medium', 'difficult')


def evaluate(
  config: config_lib.Config, *, policy: str, questions: str, index: str, out: str, samples: int
) -> dict[str, Any]:
  """Scores a policy folder on a question file.

  Args:
    config: everything but the following.
    policy: policy folder.
    questions: question file; every question is asked.
    index: of the retriever.
    out: folder for `summary.json` and `trajectories.jsonl`, which holds the greedy rollouts.
    samples: sampled rollouts of each question besides, for pass@samples; 0 for none.

  Returns:
    the summary.
  """
  asked = questions_lib.read(questions)
  with at_work(config, policy, _retrieval(config, index)) as (actor, pool):
    greedy = ask_all(actor, asked, pool=pool, top_k=config.eval_retrieval.top_k, label='eval')
    summary = trajectories.summarize(greedy)
    if samples:
      tasks = [Task(q, i, s, 0) for i, q in enumerate(asked) for s in range(samples)]
      top_k, label = config.eval_retrieval.top_k, f'pass@{samples}'
      sampled = roll_out(actor, tasks, pool=pool, top_k=top_k, temperature=1.0, label=label)
      summary[f'pass@{samples}_by_hops'] = _pass_by_hops(sampled)
  if jax.process_index() == 0:
    folder = pathlib.Path(out)
    trajectories.write(folder / 'trajectories.jsonl', greedy)
    partial = folder / 'summary.json.partial'
    partial.write_text(json.dumps(summary, indent=2))
    os.replace(partial, folder / 'summary.json')
    print(json.dumps({k: v for k, v in summary.items() if k != 'by_dataset'}))
  return summary


def ask(config: config_lib.Config, *, policy: str, index: str, question: str) -> None:
  """Answers one question and prints the trajectory in colour."""
  asked = [Question('asked', question, golden_answers=())]
  with at_work(config, policy, _retrieval(config, index)) as (actor, pool):
    (record,) = ask_all(actor, asked, pool=pool, top_k=config.eval_retrieval.top_k)
  report.show(record)


def difficulty(
  config: config_lib.Config, *, policy: str, questions: str, index: str, out: str, samples: int
) -> dict[str, int]:
  """Labels each question with how many rollouts a policy needs until one answers it exactly.

  `metadata.rollouts_needed` is the number of the first right one, None if none of `samples` is;
  `metadata.difficulty` is easy below 10, medium up to 20, difficult above or never, the bands of
  R1-Searcher (arXiv 2503.05592, section 3.1).

  Args:
    config, policy, questions, index: as in `evaluate`.
    out: question file to write.
    samples: rollouts of each question, at temperature 1.

  Returns:
    questions of each band.
  """
  asked = questions_lib.read(questions)
  tasks = [Task(q, i, s, 0) for i, q in enumerate(asked) for s in range(samples)]
  with at_work(config, policy, _retrieval(config, index)) as (actor, pool):
    top_k = config.eval_retrieval.top_k
    records = roll_out(actor, tasks, pool=pool, top_k=top_k, temperature=1.0, label='difficulty')
  needed: dict[int, int] = {}
  for record in records:  # Samples in order.
    if record['rewards'].get('em', 0.0):
      needed.setdefault(record['position'], record['sample'] + 1)
  labelled = [
    dataclasses.replace(
      q,
      metadata={
        **q.metadata,
        'rollouts_needed': needed.get(i),
        'difficulty': _band(needed.get(i)),
      },
    )
    for i, q in enumerate(asked)
  ]
  counts = collections.Counter(q.metadata['difficulty'] for q in labelled)
  if jax.process_index() == 0:
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    questions_lib.write(out, labelled)
    print(json.dumps({band: counts[band] for band in BANDS}))
  return dict(counts)


def ask_all(
  actor: Actor,
  questions: Sequence[Question],
  *,
  pool: Pool,
  top_k: int,
  step: int = 0,
  label: str = '',
) -> list[trajectories.Record]:
  """Greedy rollouts of every question, shared out over the hosts.

  Args:
    actor: with its weights loaded.
    questions: the same on every host.
    pool: of this host.
    top_k: documents per query.
    step: training step, for the records.
    label: of a progress bar; empty for none.

  Returns:
    the record of every question, in their order, on every host: a collective.
  """
  tasks = [Task(question, i, 0, step) for i, question in enumerate(questions)]
  return roll_out(actor, tasks, pool=pool, top_k=top_k, temperature=0.0, label=label)


def roll_out(
  actor: Actor,
  tasks: Sequence[Task],
  *,
  pool: Pool,
  top_k: int,
  temperature: float,
  label: str,
  describe: Callable[..., Mapping[str, Any]] = trajectories.record,
) -> list[Any]:
  """Rolls out every task, shared out over the hosts.

  Args:
    actor, pool, top_k, label: as in `ask_all`.
    tasks: the same on every host.
    temperature: 0 for greedy.
    describe: (trajectory, tokenizer, protocol) -> what JSON can hold, with position and sample.

  Returns:
    the description of every rollout, by position and sample, on every host: a collective.
  """
  mine = [task for task in tasks if task.position % jax.process_count() == jax.process_index()]
  portions = [mine[i : i + _PORTION] for i in range(0, len(mine), _PORTION)]
  records = []
  for portion in _tracked(portions, label):
    for trajectory in actor.rollout(portion, pool=pool, top_k=top_k, temperature=temperature):
      records.append(describe(trajectory, actor.tokenizer, actor.protocol))
  gathered = [record for host in sharding.gather_json(records) for record in host]
  return sorted(gathered, key=lambda r: (r['position'], r['sample']))


@contextlib.contextmanager
def at_work(
  config: config_lib.Config, policy: str, retrieval: config_lib.Retrieval
) -> Iterator[tuple[Actor, Pool]]:
  """The policy of a folder with its weights loaded, and a retriever."""
  # Samples of one question are independent here.
  config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, leaves=1))
  mesh = sharding.open_mesh(config)
  size, params, tokenizer = checkpoint.load_policy(policy, mesh)
  actor = Actor(config, size, tokenizer, mesh)
  actor.load(params)
  with Pool(retrieval) as pool:
    yield actor, pool


def _band(needed: int | None) -> str:
  if needed is None or needed > 20:
    return 'difficult'
  return 'easy' if needed < 10 else 'medium'


def _tracked(portions: Sequence[Any], label: str) -> Iterable[Any]:
  if not label or jax.process_index() > 0:
    return portions
  return rich.progress.track(portions, description=label)


def _pass_by_hops(records: Sequence[trajectories.Record]) -> Mapping[str, float]:
  """Share of questions that at least one sample answers exactly, by `metadata.hops`."""
  best: dict[str, dict[str, float]] = collections.defaultdict(dict)
  for record in records:
    solved = best[str(record['metadata'].get('hops', 'all'))]
    em = record['rewards'].get('em', 0.0)
    solved[record['id']] = max(solved.get(record['id'], 0.0), em)
  return {hops: sum(solved.values()) / len(solved) for hops, solved in sorted(best.items())}


def _retrieval(config: config_lib.Config, index: str) -> config_lib.Retrieval:
  retrieval = copy.copy(config.eval_retrieval)
  retrieval.index = index
  if retrieval.backend not in files.WITHOUT_INDEX and not os.path.isdir(index):
    raise UserError(f'the index {index!r} is not a folder; make it with `jaxsearch index`.')
  return retrieval
