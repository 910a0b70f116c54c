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
from jaxsearch.types import Kind, Summary, Task, Trajectory, UserError

# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_MAY_DIFFER = ('run_dir', 'schedule.', 'mesh.', 'retrieval.workers', 'eval_retrieval.workers')


class Run:
  """Opens everything that a run needs, in the order in which bad input shows.

  Attributes:
    start: first step to make; above 0 if the run resumes.
  """

  def __init__(self, config: config_lib.Config):
    self._config = config
    self._mesh = sharding.make_mesh(config.mesh)
    train = questions_lib.read(config.questions.train)
    dev = questions_lib.read(config.questions.dev)
    self._dev = dev[: config.schedule.eval_questions or len(dev)]
    self._source = questions_lib.QuestionSource(train, config.seed)
    size, params, self._tokenizer = checkpoint.load_policy(config.policy.path, self._mesh)
    self._size = size
    self._learner = Learner(config, size, self._mesh)
    self._actor = Actor(config, size, self._tokenizer, self._mesh)
    self._estimate = plugins.function(advantages_lib, config.algo.advantage)
    self._reference = self._open_reference(params)
    self._folder = pathlib.Path(config.run_dir)
    self._folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
      host = f'host{jax.process_index()}'
      self._journal = Journal(self._folder / 'journal' / host)
      opened.callback(self._journal.close)
      self._pool = opened.enter_context(Pool(config.retrieval, self._journal))
      self._dev_pool = opened.enter_context(Pool(config.eval_retrieval))
      self._checkpoints = checkpoint.RunCheckpoints(self._folder / 'checkpoints', config.schedule)
      opened.callback(self._checkpoints.close)
      self._state, self.start = self._restore(params)
      self._writer = self._open_writer(opened)
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
    """Starts a checkpoint in the background; answers of steps before it are forgotten."""
    with clock('checkpoint'):
      meta = {'config': dataclasses.asdict(self._config)}
      self._checkpoints.save(step, self._state, meta, dev_score)
      if self._checkpoints.latest is not None:
        self._journal.prune(self._checkpoints.latest)

  def take(self, step: int) -> list[Task]:
    """This host's rollouts to make: its share of the step's questions, a group of each."""
    algo, progress = self._config.algo, step / self._config.schedule.steps
    hosts = {'host': jax.process_index(), 'hosts': jax.process_count()}
    asked = self._source.take(step, algo.questions_per_step, **hosts)
    samples = range(algo.group_size)
    return [Task(q, place, sample, step, progress) for place, q in asked for sample in samples]

  def rollout(self, tasks: Sequence[Task], clock: metrics_lib.Clock) -> list[Trajectory]:
    """Scored trajectories of this host, in the order of the tasks."""
    self._journal.open(tasks[0].step)
    with clock('gen'):
      done = self._actor.rollout(
        tasks,
        pool=self._pool,
        top_k=self._config.retrieval.top_k,
        temperature=self._config.rollout.temperature,
      )
    host, step = jax.process_index(), tasks[0].step
    records = [trajectories.record(t, self._tokenizer, self._actor.protocol) for t in done]
    name = f'train_{step}.jsonl' if jax.process_count() == 1 else f'train_{step}.host{host}.jsonl'
    trajectories.write(self._folder / 'trajectories' / name, records)
    return done

  def gather(self, done: Sequence[Trajectory]) -> list[Summary]:
    """What every host knows of every trajectory, hosts in order; a collective.

    Raises:
      UserError: if the infrastructure lost more of them than `schedule.infra_limit` allows.
    """
    own = [dataclasses.asdict(_summarize(t)) for t in done]
    summaries = [Summary(**fields) for host in sharding.gather_json(own) for fields in host]
    lost = sum(s.is_infra for s in summaries) / len(summaries)
    if lost > self._config.schedule.infra_limit:
      raise UserError(
        f'the retriever lost {lost:.0%} of the rollouts of step {done[0].task.step}, above '
        f'schedule.infra_limit={self._config.schedule.infra_limit}. The last checkpoint is step '
        f'{self._checkpoints.latest}; mend the retriever and give the same command again.'
      )
    return summaries

  def estimate(self, summaries: Sequence[Summary], step: int) -> list[np.ndarray]:
    """Advantages of all hosts' trajectories, equal on every host."""
    return self._estimate(summaries, np.random.default_rng((self._config.seed, step)))

  def batch(
    self,
    done: Sequence[Trajectory],
    summaries: Sequence[Summary],
    advantages: Sequence[np.ndarray],
  ) -> tuple[list[Batch], list[Batch]]:
    """Micro-batches to learn from, and those that only count.

    Without KL and entropy terms a row whose advantages are all zero has a gradient of exactly
    zero: it enters the denominator and is spared the forward and backward pass.
    """
    algo, host = self._config.algo, jax.process_index()
    keeps_all = bool(algo.kl_coef or algo.entropy_coef)
    groups: dict[bool, list[list[int]]] = {
      flag: [[] for _ in range(jax.process_count())] for flag in (True, False)
    }
    for index, (summary, values) in enumerate(zip(summaries, advantages)):
      if not summary.is_infra:
        groups[bool(keeps_all or np.any(values))][summary.host].append(index)
    first = next(i for i, s in enumerate(summaries) if s.host == host)
    batches = []
    for flag in (True, False):
      lengths = [[summaries[i].length for i in indices] for indices in groups[flag]]
      mine = groups[flag][host]
      rows = [self._row(done[i - first], advantages[i]) for i in mine]
      batches.append(self._pack(lengths, rows))
    return batches[0], batches[1]

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
    """Of this host's rollouts."""
    return metrics_lib.rollout_metrics(done) | self._actor.measure() | self._pool.stats()

  def record(self, step: int, figures: dict[str, Any]) -> None:
    """Writes the step down; host 0 speaks."""
    if self._writer is not None:
      tokens = figures.get('length/total_mean', 0.0) * self._config.algo.group_size
      tokens *= self._config.algo.questions_per_step
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
    return state, int(state.step)

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
    self._actor.load(self._state.params)
    self._actor.warmup()
    hosts, shards = jax.process_count(), self._mesh.shape['data'] * self._mesh.shape['fsdp']
    learner = self._config.learner
    shapes = [(b, batching.microbatch_rows(b, learner, hosts, shards)) for b in learner.buckets]
    empty = [self._learner.place(batching.pack([], bucket, rows)) for bucket, rows in shapes]
    self._learner.compile(empty)

  def _row(self, trajectory: Trajectory, advantages: np.ndarray) -> batching.BatchRow:
    (context,) = trajectory.contexts
    sampled = context.sampled_mask
    values = np.zeros(context.length, np.float32)
    values[sampled] = advantages
    mask = sampled
    if self._config.algo.loss_tokens == 'all':
      observed = np.concatenate(
        [np.full(len(s.ids), s.kind is Kind.OBSERVATION) for s in context.segments]
      )
      values[observed] = advantages[0]
      mask = sampled | observed
    return batching.BatchRow(context, mask, values)

  def _pack(
    self, lengths: Sequence[Sequence[int]], rows: Sequence[batching.BatchRow]
  ) -> list[Batch]:
    shards = self._mesh.shape['data'] * self._mesh.shape['fsdp']
    host = jax.process_index()
    return [
      self._learner.place(
        batching.pack([rows[i] for i in cut.members[host]], cut.bucket, cut.rows)
      )
      for cut in batching.plan(lengths, self._config.learner, shards)
    ]


def _summarize(t: Trajectory) -> Summary:
  return Summary(
    position=t.task.position,
    sample=t.task.sample,
    rewards={} if t.is_infra else dict(t.rewards),
    is_infra=t.is_infra,
    policy_tokens=sum(c.count(Kind.POLICY) for c in t.contexts),
    searches=len(t.turns),
    length=sum(c.length for c in t.contexts),
    host=jax.process_index(),
  )


def _lookup(fields: Any, name: str) -> Any:
  for part in name.split('.'):
    fields = fields[part] if isinstance(fields, dict) and part in fields else None
  return fields
