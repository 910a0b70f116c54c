"""One training run on this host: what is open, where it stands, and the parts of a step."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxsearch import batching, checkpoint, evaluation, fields, plugins, sharding, trajectories
from jaxsearch import config as config_lib
from jaxsearch import intake as intake_lib
from jaxsearch import metrics as metrics_lib
from jaxsearch.algo import advantages as advantages_lib
from jaxsearch.algo import selectors as selectors_lib
from jaxsearch.algo.summary import Summary
from jaxsearch.intake import Intake
from jaxsearch.learner import Learner
from jaxsearch.progress import Progress
from jaxsearch.retrieval.journal import Journal
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.actor import Actor
from jaxsearch.types import Task, Trajectory, UserError

# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_POOLS = ('workers', 'encoders', 'cores', 'worker_gib', 'window_ms', 'hedge', 'cache')
_MAY_DIFFER = (
  *('run_dir', 'schedule.', 'mesh.'),
  *('learner.moments_on_host', 'learner.reference_on_host', 'policy.remat'),
  *(f'{section}.{name}' for section in ('retrieval', 'eval_retrieval') for name in _POOLS),
)


class Run:
  """Opens everything that a run needs; what cannot be read is told before anything is written.

  Attributes:
    progress: how far it has come.
    intake: what is asked next.
  """

  def __init__(self, config: config_lib.Config):
    self._config = config
    self._mesh = sharding.open_mesh(config)
    shards = self._mesh.shape['data'] * self._mesh.shape['fsdp']
    self._place = batching.Place(jax.process_index(), jax.process_count(), shards)
    train, self._dev = intake_lib.read(config)
    self._size, params, self._tokenizer = checkpoint.load_policy(config.policy.path, self._mesh)
    self._learner = Learner(config, self._size, self._mesh, params)
    self._actor = Actor(config, self._size, self._tokenizer, self._mesh)
    self._advantages = plugins.function(advantages_lib, config.algo.advantage)
    self._selector = plugins.function(selectors_lib, config.algo.selector)
    self._reference = self._learner.weights.load_reference(params)
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
      self._state, meta = self._restore(params)
      del params
      self.progress = Progress(config.schedule, **meta.get('progress', {}))
      self.intake = Intake(config, self._place, train, self.progress, meta.get('source'))
      self._start = int(self._state.step) // config.algo.updates_per_batch
      self._is_done = self._has_ended()
      self._writer = self._open_writer(opened)
      if not self._is_done:
        self._warm_up()
      self._opened = opened.pop_all()

  def __enter__(self) -> Run:
    return self

  def __exit__(self, *error: object) -> None:
    self._opened.close()

  def steps(self) -> Iterator[int]:
    """The steps that are left; none of a run that has ended."""
    return iter(()) if self._is_done else self.progress.steps(self._start)

  def saves(self, step: int, is_asked: bool) -> bool:
    """Whether a checkpoint is made before the update of `step`: if asked, due or scored on dev."""
    due = step % self._config.schedule.checkpoint_every == 0 or self.progress.evaluates(step)
    return (is_asked or due) and step != self._checkpoints.latest

  def load_weights(self, clock: metrics_lib.Clock) -> None:
    """Gives the sampler the learner's present weights."""
    with clock('sync'):
      self._actor.load(self._learner.weights.merged(self._state.params))

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
      meta = {'config': dataclasses.asdict(self._config), 'progress': self.progress.meta()}
      meta['source'] = self.intake.state()
      before = self._checkpoints.latest
      self._checkpoints.save(step, self._state, meta, dev_score)
      if before is not None:  # It is committed now; the new one is not yet.
        self._journal.prune(before)
        self._dev_journal.prune(before)

  def collect(self, step: int, clock: metrics_lib.Clock) -> tuple[list[Trajectory], list[Summary]]:
    """This host's scored trajectories of the step, and the summaries of every host's.

    Takes questions until `questions_per_step` of them have rollouts of unequal reward, which alone
    teach something, but `algo.rounds` times at most (dynamic sampling, arXiv 2503.14476).
    """
    done: list[Trajectory] = []
    summaries: list[Summary] = []
    wanted = self._config.algo.questions_per_step
    for _ in range(self._config.algo.rounds):
      made = self.rollout(self.intake.take(step), clock)
      found = self.gather(made)
      self.intake.feedback(found)
      summaries += found
      done += made
      kept = zip(summaries, selectors_lib.if_unequal(summaries), strict=True)
      if len({(s.host, s.position) for s, is_kept in kept if is_kept}) >= wanted:
        break
    self.progress.tokens += sum(s.generated for s in summaries)
    host = f'.host{self._place.host}' if self._place.hosts > 1 else ''
    records = [trajectories.record(t, self._tokenizer, self._actor.protocol) for t in done]
    trajectories.write(self._folder / 'trajectories' / f'train_{step}{host}.jsonl', records)
    return done, summaries

  def rollout(self, tasks: Sequence[Task], clock: metrics_lib.Clock) -> list[Trajectory]:
    """Scored trajectories of this host, in the order of the tasks."""
    self._journal.open(tasks[0].step)
    with clock('gen'):
      return self._actor.rollout(
        tasks,
        pool=self._pool,
        top_k=self._config.retrieval.top_k,
        temperature=self._config.rollout.temperature,
      )

  def gather(self, done: Sequence[Trajectory]) -> list[Summary]:
    """What every host knows of every trajectory, hosts in order; a collective.

    Raises:
      UserError: if the infrastructure lost more of them than `schedule.infra_limit` allows.
    """
    own = [dataclasses.asdict(batching.summarize(t, self._place.host)) for t in done]
    summaries = batching.summaries(sharding.gather_json(own))
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

  def estimate(self, summaries: Sequence[Summary], step: int) -> list[np.ndarray | None]:
    """Advantages of all hosts' trajectories, equal on every host; None for those not trained."""
    rng = np.random.default_rng((self._config.seed, step))
    advantages = self._advantages(summaries, rng)
    return [a if kept else None for a, kept in zip(advantages, self._selector(summaries))]

  def batch(
    self,
    done: Sequence[Trajectory],
    summaries: Sequence[Summary],
    advantages: Sequence[np.ndarray | None],
  ) -> list[batching.Update]:
    """Global micro-batches of each update of this batch of rollouts; see `batching`."""
    updates = batching.updates(done, summaries, advantages, self._config, self._place)
    return [
      batching.Update(*([self._learner.place(batch) for batch in part] for part in update))
      for update in updates
    ]

  def update(
    self, updates: Sequence[batching.Update], clock: metrics_lib.Clock
  ) -> dict[str, float]:
    """The optimiser steps of one batch of rollouts; their figures, averaged."""
    with clock('update'):
      trained = iter(
        self._learner.prepare(
          self._state.params, self._reference, [b for update in updates for b in update.trained]
        )
      )
      figures = []
      for update in updates:
        batches = list(itertools.islice(trained, len(update.trained)))
        self._state, found = self._learner.update(self._state, batches, update.counted)
        figures.append(found)
    return metrics_lib.over_updates(figures)

  def figures(
    self,
    done: Sequence[Trajectory],
    summaries: Sequence[Summary],
    advantages: Sequence[np.ndarray | None],
  ) -> dict[str, float]:
    """Of every host's rollouts; a collective."""
    light = sharding.gather_records([trajectories.without_texts(t) for t in done])
    measured = sharding.gather_json(self._actor.measure() | self._pool.stats())
    return (
      metrics_lib.rollout_metrics([t for host in light for t in host])
      | metrics_lib.over_hosts(measured)
      | metrics_lib.signal(summaries, advantages)
    )

  def record(self, step: int, figures: dict[str, Any]) -> None:
    """Writes the step down; host 0 speaks."""
    if self._writer is None:
      return
    if 'length/total_mean' in figures:
      tokens = figures['length/total_mean'] * figures['group/rollouts']
      figures['perf/throughput'] = tokens / figures['timing_s/step']
    self._writer.write(step, figures)
    print(metrics_lib.progress(step, self._config.schedule.steps, figures), flush=True)

  def export(self) -> None:
    """Writes the policy of the step that `schedule.export` names."""
    self._checkpoints.wait()
    kind = self._config.schedule.export
    step = self._checkpoints.best if kind == 'best' else self._checkpoints.latest
    trained = self._checkpoints.restore_params(step, self._learner.abstract_state().params)
    self._learner.weights.export(trained, self._tokenizer)
    if jax.process_index() == 0:
      told = {'best': 'best on dev', 'newest': 'newest'}[kind]
      print(f'{told}: step {step}, written to {self._folder / "policy"}')

  def _restore(self, params: Any) -> tuple[Any, dict[str, Any]]:
    """The state to go on from, and what its checkpoint knows besides; nothing at the start."""
    restored = self._checkpoints.restore_latest(self._learner.abstract_state())
    if restored is None:
      return self._learner.init_state(params), {}
    state, meta = restored
    if 'progress' not in meta:
      raise UserError(f'{self._folder} was written by an earlier version; choose another run_dir.')
    differing = fields.differences(meta['config'], self._config, _MAY_DIFFER)
    if differing:
      raise UserError(
        f'{self._folder} holds a run of another configuration: {"; ".join(differing)}. Go on with '
        'the old values, or choose another run_dir.'
      )
    return state, meta

  def _has_ended(self) -> bool:
    written = (line['step'] for line in metrics_lib.read(self._folder))
    return self.progress.is_last(self._start) and self._start in written

  def _open_writer(self, opened: contextlib.ExitStack) -> metrics_lib.MetricWriter | None:
    if jax.process_index() > 0:
      return None
    partial = self._folder / 'config.json.partial'
    partial.write_text(json.dumps(dataclasses.asdict(self._config), indent=2))
    os.replace(partial, self._folder / 'config.json')
    writer = metrics_lib.MetricWriter(self._folder, self._start + self._is_done)
    opened.callback(writer.close)
    return writer

  def _warm_up(self) -> None:
    """Compiles everything, so that nothing is compiled later."""
    sharding.gather_json(jax.process_index())
    self.load_weights(metrics_lib.Clock())
    self._actor.warmup()
    empty = map(self._learner.place, batching.empty(self._config.learner, self._place))
    self._learner.compile(list(empty))
