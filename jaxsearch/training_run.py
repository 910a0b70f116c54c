"""One training run on this host: what is open, where it stands, and the parts of a step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
import numpy as np

from jaxsearch import batching, checkpoint, evaluation, plugins, sharding, trajectories, validation
from jaxsearch import config as config_lib
from jaxsearch import metrics as metrics_lib
from jaxsearch import questions as questions_lib
from jaxsearch.algo import advantages as advantages_lib
from jaxsearch.learner import Batch, Learner
from jaxsearch.retrieval.journal import Journal
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.actor import Actor
from jaxsearch.types import Summary, Task, Trajectory, UserError

# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_MAY_DIFFER = ('run_dir', 'schedule.', 'mesh.', 'retrieval.workers', 'eval_retrieval.workers')


class Run:
  """Opens everything that a run needs; what cannot be read is told before anything is written.

  Attributes:
    start: first step to make; above 0 if the run resumes, above `schedule.steps` if it is done.
  """

  def __init__(self, config: config_lib.Config):
    self._config = config
    self._mesh = sharding.make_mesh(config.mesh)
    train = questions_lib.read(config.questions.train)
    dev = questions_lib.read(config.questions.dev)
    self._dev = dev[: config.schedule.eval_questions or len(dev)]
    self._source = questions_lib.QuestionSource(train, config.seed)
    self._size, params, self._tokenizer = checkpoint.load_policy(config.policy.path, self._mesh)
    self._learner = Learner(config, self._size, self._mesh)
    self._actor = Actor(config, self._size, self._tokenizer, self._mesh)
    self._advantages = plugins.function(advantages_lib, config.algo.advantage)
    self._reference = self._open_reference(params)
    self._folder = pathlib.Path(config.run_dir)
    with contextlib.ExitStack() as opened:
      host = self._folder / 'journal' / f'host{jax.process_index()}'
      self._journal, self._dev_journal = Journal(host / 'train'), Journal(host / 'dev')
      self._pool = opened.enter_context(Pool(config.retrieval, self._journal))
      self._dev_pool = opened.enter_context(Pool(config.eval_retrieval, self._dev_journal))
      opened.callback(self._journal.close)
      opened.callback(self._dev_journal.close)
      self._folder.mkdir(parents=True, exist_ok=True)
      self._checkpoints = checkpoint.RunCheckpoints(self._folder / 'checkpoints', config.schedule)
      opened.callback(self._checkpoints.close)
      self._state, self.start = self._restore(params)
      self._writer = self._open_writer(opened)
      if self.start <= config.schedule.steps:
        self._warm_up()
      self._opened = opened.pop_all()

  def __enter__(self) -> Run:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._opened.close()

  def evaluates(self, step: int) -> bool:
    """Whether dev is scored before the update of `step`."""
    return step % self._config.schedule.eval_every == 0 or step == self._config.schedule.steps

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is made before the update of `step`: when due, or scored on dev."""
    due = step % self._config.schedule.checkpoint_every == 0 or self.evaluates(step)
    return due and step != self._checkpoints.latest

  def load_weights(self, clock: metrics_lib.Clock) -> None:
    """Gives the sampler the learner's present weights."""
    with clock('sync'):
      self._actor.load(self._state.params)

  def evaluate(self, step: int, clock: metrics_lib.Clock) -> dict[str, float]:
    """Greedy rollouts of the dev questions; their records go to `trajectories/`."""
    self._dev_journal.open(step)
    with clock('eval'):
      records = evaluation.ask_all(
        self._actor,
        self._dev,
        pool=self._dev_pool,
        top_k=self._config.eval_retrieval.top_k,
        step=step,
      )
    self._actor.measure()
    self._dev_pool.stats()
    if jax.process_index() == 0:
      trajectories.write(self._folder / 'trajectories' / f'dev_{step}.jsonl', records)
    summary = trajectories.summarize(records)
    figures = {f'val/{name}': summary[name] for name in ('em', 'cover_em', 'f1', 'malformed')}
    for name in ('em_by_hops', 'searches_by_hops'):
      figures |= {f'val/{name}/{hops}': value for hops, value in summary[name].items()}
    return figures

  def save(self, step: int, dev_score: float | None, clock: metrics_lib.Clock) -> None:
    """Starts a checkpoint in the background; forgets answers that no resume asks for again."""
    with clock('checkpoint'):
      meta = {'config': dataclasses.asdict(self._config)}
      before = self._checkpoints.latest
      self._checkpoints.save(step, self._state, meta, dev_score)
      if before is not None:  # It is committed now; the new one is not yet.
        self._journal.prune(before)
        self._dev_journal.prune(before)

  def take(self, step: int) -> list[Task]:
    """This host's rollouts to make: its share of the step's questions, a group of each."""
    algo, progress = self._config.algo, step / self._config.schedule.steps
    hosts = {'host': jax.process_index(), 'hosts': jax.process_count()}
    asked = self._source.take(step, algo.questions_per_step, **hosts)
    samples = range(algo.group_size)
    return [Task(q, place, sample, step, progress) for place, q in asked for sample in samples]

  def rollout(self, tasks: Sequence[Task], clock: metrics_lib.Clock) -> list[Trajectory]:
    """Scored trajectories of this host, in the order of the tasks."""
    step, host = tasks[0].step, jax.process_index()
    self._journal.open(step)
    with clock('gen'):
      done = self._actor.rollout(
        tasks,
        pool=self._pool,
        top_k=self._config.retrieval.top_k,
        temperature=self._config.rollout.temperature,
      )
    records = [trajectories.record(t, self._tokenizer, self._actor.protocol) for t in done]
    name = f'train_{step}.jsonl' if jax.process_count() == 1 else f'train_{step}.host{host}.jsonl'
    trajectories.write(self._folder / 'trajectories' / name, records)
    return done

  def gather(self, done: Sequence[Trajectory]) -> list[Summary]:
    """What every host knows of every trajectory, hosts in order; a collective.

    Raises:
      UserError: if the infrastructure lost more of them than `schedule.infra_limit` allows.
    """
    host = jax.process_index()
    own = [dataclasses.asdict(batching.summarize(t, host)) for t in done]
    summaries = [Summary(**fields) for part in sharding.gather_json(own) for fields in part]
    lost = sum(s.is_infra for s in summaries) / len(summaries)
    if lost > self._config.schedule.infra_limit:
      step = done[0].task.step
      self._journal.forget(step)  # Or the failures in it would be those of the next try too.
      self._checkpoints.wait()
      raise UserError(
        f'the retriever lost {lost:.0%} of the rollouts of step {step}, above '
        f'schedule.infra_limit={self._config.schedule.infra_limit}. The last checkpoint is step '
        f'{self._checkpoints.latest}; mend the retriever and give the same command again.'
      )
    return summaries

  def estimate(self, summaries: Sequence[Summary], step: int) -> list[np.ndarray]:
    """Advantages of all hosts' trajectories, equal on every host."""
    return self._advantages(summaries, np.random.default_rng((self._config.seed, step)))

  def batch(
    self,
    done: Sequence[Trajectory],
    summaries: Sequence[Summary],
    advantages: Sequence[np.ndarray],
  ) -> tuple[list[Batch], list[Batch]]:
    """Global micro-batches to learn from, and those that only count; see `batching`."""
    place = batching.Place(jax.process_index(), jax.process_count(), _shards(self._mesh))
    parts = batching.microbatches(done, summaries, advantages, self._config, place)
    trained, counted = ([self._learner.place(batch) for batch in part] for part in parts)
    return trained, counted

  def update(
    self, microbatches: Sequence[Batch], counted: Sequence[Batch], clock: metrics_lib.Clock
  ) -> dict[str, float]:
    """One optimiser step."""
    with clock('update'):
      if self._reference is not None:
        microbatches = [
          dataclasses.replace(b, reference_logprobs=self._learner.logprobs(self._reference, b))
          for b in microbatches
        ]
      self._state, figures = self._learner.update(self._state, microbatches, counted)
    return figures

  def figures(self, done: Sequence[Trajectory]) -> dict[str, float]:
    """Of every host's rollouts; a collective."""
    light = sharding.gather_records([trajectories.without_texts(t) for t in done])
    measured = sharding.gather_json(self._actor.measure() | self._pool.stats())
    rollouts = metrics_lib.rollout_metrics([t for host in light for t in host])
    return rollouts | metrics_lib.over_hosts(measured)

  def record(self, step: int, figures: dict[str, Any]) -> None:
    """Writes the step down; host 0 speaks."""
    if self._writer is None:
      return
    if 'length/total_mean' in figures:
      rollouts = self._config.algo.group_size * self._config.algo.questions_per_step
      tokens = figures['length/total_mean'] * rollouts
      figures['perf/throughput'] = tokens / figures['timing_s/step']
    self._writer.write(step, figures)
    print(metrics_lib.progress(step, self._config.schedule.steps, figures), flush=True)

  def export_best(self) -> None:
    """Writes the parameters with the best dev score as a policy folder."""
    self._checkpoints.wait()
    best = self._checkpoints.best
    params = self._checkpoints.restore_params(best, self._learner.abstract_state().params)
    checkpoint.save_policy(self._folder / 'policy', self._size, params, self._tokenizer)
    if jax.process_index() == 0:
      print(f'best on dev: step {best}, written to {self._folder / "policy"}')

  def _open_reference(self, params: Any) -> Any:
    if not self._config.algo.kl_coef:
      return None
    if not self._config.policy.reference:
      return params
    size, reference, _ = checkpoint.load_policy(self._config.policy.reference, self._mesh)
    if size != self._size:
      raise UserError(
        f'policy.reference={self._config.policy.reference!r} has size {size}, the policy '
        f'{self._size}; they must be equal.'
      )
    return reference

  def _restore(self, params: Any) -> tuple[Any, int]:
    """The state to go on from, and the first step to make."""
    restored = self._checkpoints.restore_latest(self._learner.abstract_state())
    if restored is None:
      return self._learner.init_state(params), 0
    state, meta = restored
    before, now = meta['config'], json.loads(json.dumps(dataclasses.asdict(self._config)))
    differing = [
      f'{name} was {_lookup(before, name)!r} and is {_lookup(now, name)!r}'
      for name, _ in validation.flatten(self._config)
      if _lookup(before, name) != _lookup(now, name) and not name.startswith(_MAY_DIFFER)
    ]
    if differing:
      raise UserError(
        f'{self._folder} holds a run of another configuration: {"; ".join(differing)}. Go on with '
        'the old values, or choose another run_dir.'
      )
    step, last = int(state.step), self._config.schedule.steps
    is_done = step == last and any(line['step'] == last for line in metrics_lib.read(self._folder))
    return state, step + is_done

  def _open_writer(self, opened: contextlib.ExitStack) -> metrics_lib.MetricWriter | None:
    if jax.process_index() > 0:
      return None
    text = json.dumps(dataclasses.asdict(self._config), indent=2)
    partial = self._folder / 'config.json.partial'
    partial.write_text(text)
    os.replace(partial, self._folder / 'config.json')
    writer = metrics_lib.MetricWriter(self._folder, self.start)
    opened.callback(writer.close)
    return writer

  def _warm_up(self) -> None:
    """Compiles everything, so that nothing is compiled later."""
    sharding.gather_json(jax.process_index())
    self._actor.load(self._state.params)
    self._actor.warmup()
    place = batching.Place(jax.process_index(), jax.process_count(), _shards(self._mesh))
    empty = batching.empty(self._config.learner, place)
    self._learner.compile([self._learner.place(batch) for batch in empty])


def _shards(mesh: jax.sharding.Mesh) -> int:
  return mesh.shape['data'] * mesh.shape['fsdp']


def _lookup(fields: Any, name: str) -> Any:
  for part in name.split('.'):
    fields = fields[part] if isinstance(fields, dict) and part in fields else None
  return fields
