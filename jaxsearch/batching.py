"""From contexts to micro-batches: padding appears here for the first time.

Rows are cut into micro-batches by a plan that is a pure function of every host's row lengths, so
that all hosts make the same calls with the same shapes; a host that runs out of rows fills up with
rows of length and weight 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.algo.summary import Summary
from jaxsearch.learner import Batch
from jaxsearch.types import Context, Kind, Status, Trajectory, UserError


@dataclasses.dataclass(frozen=True)
class BatchRow:
  """One context with what it is trained on; arrays are [length].

  Attributes:
    context: ids, sampled mask and the sampler's log-probabilities.
    loss_mask: bool, what is trained.
    advantages: float32, read where `loss_mask`.
  """

  context: Context
  loss_mask: np.ndarray
  advantages: np.ndarray


@dataclasses.dataclass(frozen=True)
class Place:
  """Where this process stands.

  Attributes:
    host: its number.
    hosts: how many there are.
    shards: parts over which all rows of a micro-batch are split on the mesh.
  """

  host: int
  hosts: int
  shards: int


@dataclasses.dataclass(frozen=True)
class Cut:
  """One micro-batch of the plan: [rows * hosts, bucket].

  Attributes:
    bucket: padded length.
    rows: rows of each host.
    members: per host, which of its rows; at most `rows`.
  """

  bucket: int
  rows: int
  members: tuple[tuple[int, ...], ...]


class Update(NamedTuple):
  """The micro-batches of one optimiser step: those to learn from, and those that only count."""

  trained: list[Batch]
  counted: list[Batch]


def summarize(t: Trajectory, host: int) -> Summary:
  """What every host is told of a trajectory of `host`."""
  return Summary(
    position=t.task.position,
    sample=t.task.sample,
    rewards={} if t.is_infra else dict(t.rewards),
    status=t.status,
    segments=tuple(len(s.ids) for c in t.contexts for s in c.segments if s.kind is Kind.POLICY),
    owners=tuple(owner for c in t.contexts for owner in c.owners),
    searches=len(t.turns),
    length=sum(c.length for c in t.contexts),
    generated=t.generated,
    host=host,
  )


def summaries(hosts: Sequence[Sequence[Mapping[str, Any]]]) -> list[Summary]:
  """What the hosts told each other as JSON, hosts in order."""
  return [
    Summary(
      **told
      | {'status': Status(told['status'])}
      | {name: tuple(told[name]) for name in ('segments', 'owners')}
    )
    for host in hosts
    for told in host
  ]


def updates(
  done: Sequence[Trajectory],
  summaries: Sequence[Summary],
  advantages: Sequence[np.ndarray | None],
  config: config_lib.Config,
  place: Place,
) -> list[Update]:
  """This host's part of the micro-batches of each update of this batch of rollouts.

  Every host's questions are cut into `algo.updates_per_batch` stretches, one for each update.
  Trajectories that the infrastructure lost are in none. Without KL, entropy, further terms of
  the loss and whitening a row whose advantages are all zero has a gradient of exactly zero: it
  enters the denominator and is spared the forward and backward pass.

  Args:
    done: of this host.
    summaries: of every host, hosts in order, those of `done` in its order.
    advantages: beside `summaries`; [policy_tokens] each, None for what is not trained.
    config: loss and buckets.
    place: of this process.

  Returns:
    numpy batches, of the same number and shapes on every host.
  """
  algo = config.algo
  needs_all = bool(algo.kl_coef or algo.entropy_coef or algo.terms or algo.whiten)
  own = iter(done)
  trajectories = [next(own) if s.host == place.host else None for s in summaries]
  trainers = _trainers(summaries, advantages)
  # Which update a rollout belongs to, and whether to its trained part; None: to none.
  parts = [
    None if s.is_infra or values is None else (turn, needs_all or bool(np.any(values)))
    for s, values, turn in zip(summaries, advantages, _turns(summaries, algo.updates_per_batch))
  ]

  def batches(number: int, is_trained: bool) -> list[Batch]:
    chosen = [i for i, part in enumerate(parts) if part == (number, is_trained)]
    lengths: list[list[int]] = [[] for _ in range(place.hosts)]
    for i in chosen:
      lengths[summaries[i].host].append(summaries[i].length)
    rows = [
      _row(trajectories[i], advantages[i], algo, [trainers[p] == i for p in _paths(summaries[i])])
      for i in chosen
      if trajectories[i] is not None
    ]
    return [
      pack([rows[j] for j in cut.members[place.host]], cut.bucket, cut.rows)
      for cut in plan(lengths, config.learner, place.shards)
    ]

  return [Update(batches(n, True), batches(n, False)) for n in range(algo.updates_per_batch)]


def _paths(summary: Summary) -> list[tuple[int, ...]]:
  """Names of a rollout's POLICY segments among those of all rollouts; shared ones are equal."""
  place = (summary.host, summary.position)
  return [(*place, *summary.owners[: k + 1]) for k in range(len(summary.segments))]


def _trainers(
  summaries: Sequence[Summary], advantages: Sequence[np.ndarray | None]
) -> dict[tuple[int, ...], int]:
  """Path of a segment -> the rollout that trains it: the first one with it that is trained."""
  found: dict[tuple[int, ...], int] = {}
  for i, (summary, values) in enumerate(zip(summaries, advantages)):
    if values is not None and not summary.is_infra:
      for path in _paths(summary):
        found.setdefault(path, i)
  return found


def _turns(summaries: Sequence[Summary], count: int) -> list[int]:
  """Which of `count` updates each trajectory belongs to; a question is never cut."""
  positions: dict[int, list[int]] = {}
  for s in summaries:
    positions.setdefault(s.host, [])
    if s.position not in positions[s.host]:
      positions[s.host].append(s.position)
  rank = {(h, p): i for h, ps in positions.items() for i, p in enumerate(sorted(ps))}
  return [rank[s.host, s.position] * count // len(positions[s.host]) for s in summaries]


def empty(learner: config_lib.Learner, place: Place) -> list[Batch]:
  """A micro-batch without a row for each shape that `microbatches` can make, for warming up."""
  return [
    pack([], b, _rows_per_host(b, learner, place.hosts, place.shards)) for b in learner.buckets
  ]


def plan(lengths: Sequence[Sequence[int]], learner: config_lib.Learner, shards: int) -> list[Cut]:
  """Cuts every host's rows into micro-batches, largest buckets first.

  Rows of one bucket stay in order: sorted by length, the rows of a micro-batch would be alike.

  Args:
    lengths: per host, the tokens of each of its rows.
    learner: buckets and tokens of a micro-batch.
    shards: parts over which all rows of a micro-batch are split on the mesh.

  Raises:
    UserError: if a row is longer than the last bucket.
  """
  longest = max((n for host in lengths for n in host), default=0)
  if longest > learner.buckets[-1]:
    raise UserError(
      f'a row of {longest} tokens fits no bucket of learner.buckets={learner.buckets}; the last '
      'bucket must hold rollout.context_tokens.'
    )
  wanted = [[next(b for b in learner.buckets if b >= n) for n in host] for host in lengths]
  orders = [sorted(range(len(host)), key=lambda i, host=host: -host[i]) for host in wanted]
  cuts = []
  while any(orders):
    bucket = max(host[order[0]] for host, order in zip(wanted, orders) if order)
    rows = _rows_per_host(bucket, learner, len(lengths), shards)
    cuts.append(Cut(bucket, rows, tuple(tuple(order[:rows]) for order in orders)))
    orders = [order[rows:] for order in orders]
  return cuts


def pack(rows: Sequence[BatchRow], bucket: int, count: int) -> Batch:
  """Right-pads rows to [count, bucket], as numpy arrays; missing rows have length and weight 0."""
  shape = (count, bucket)
  batch = Batch(
    tokens=np.zeros(shape, np.int32),
    lengths=np.zeros(count, np.int32),
    loss_mask=np.zeros(shape, bool),
    sampler_logprobs=np.zeros(shape, np.float32),
    advantages=np.zeros(shape, np.float32),
    weights=np.zeros(count, np.float32),
    sampled_mask=np.zeros(shape, bool),
  )
  for index, row in enumerate(rows):
    context = row.context
    inside = (index, slice(context.length))
    batch.tokens[inside] = context.ids
    batch.lengths[index] = context.length
    batch.loss_mask[inside] = row.loss_mask
    batch.sampler_logprobs[inside] = context.logprobs
    batch.advantages[inside] = row.advantages
    batch.weights[index] = 1.0
    batch.sampled_mask[inside] = context.sampled_mask
  return batch


def _rows_per_host(bucket: int, learner: config_lib.Learner, hosts: int, shards: int) -> int:
  """Rows of each host in a micro-batch of padded length `bucket`: the same on all shards."""
  per_shard = max(1, learner.tokens_per_microbatch // (bucket * shards))
  return per_shard * shards // hosts


def _row(
  trajectory: Trajectory, advantages: np.ndarray, algo: config_lib.Algo, own: Sequence[bool]
) -> BatchRow:
  """Sampled ids with their advantages; with loss_tokens 'all' observations have the first one's.

  POLICY segments that are not `own` are trained in another row of the tree; spans of the name
  `untrained_span` in none.
  """
  (context,) = trajectory.contexts
  mask = context.sampled_mask
  values = np.zeros(context.length, np.float32)
  values[mask] = advantages
  is_own = iter(own)
  mask = np.concatenate(
    [np.full(len(s.ids), s.kind is Kind.POLICY and next(is_own)) for s in context.segments]
  )
  offsets = np.cumsum([0, *(len(s.ids) for s in context.segments)])
  for span in context.spans:
    if span.name == algo.untrained_span:
      mask[offsets[span.segment] + span.first : offsets[span.segment] + span.last] = False
  if algo.loss_tokens == 'all' and len(advantages):
    kinds = [np.full(len(s.ids), s.kind is Kind.OBSERVATION) for s in context.segments]
    observed = np.concatenate(kinds)
    values[observed] = advantages[0]
    mask = mask | observed
  return BatchRow(context, mask, values)
