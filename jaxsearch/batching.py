"""From contexts to micro-batches: padding appears here for the first time.

Which rows share a micro-batch follows from every host's row lengths (`microbatches`), so that all
hosts make the same calls with the same shapes. What a host lacks of a micro-batch is filled up with
rows of length and weight 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch import microbatches, sharding
from jaxsearch.algo.summary import Summary
from jaxsearch.learner import Batch
from jaxsearch.types import Context, Kind, Status, Trajectory


@dataclasses.dataclass(frozen=True)
class BatchRow:
  """One context with what it is trained on; arrays are [length].

  Attributes:
    context: ids, sampled mask and the sampler's log-probabilities; no turns, no spans.
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
  *,
  gather: Callable[[Any], list[Any]] = sharding.gather_records,
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
    gather: every host's value, hosts in order; a collective, called if a row changes hosts.

  Returns:
    numpy batches, of the same number and shapes on every host.
  """
  algo = config.algo
  needs_all = bool(algo.kl_coef or algo.entropy_coef or algo.terms or algo.whiten)
  # Which update a rollout belongs to, and whether to its trained part; None: to none.
  parts = [
    None if s.is_infra or values is None else (turn, needs_all or bool(np.any(values)))
    for s, values, turn in zip(summaries, advantages, _turns(summaries, algo.updates_per_batch))
  ]
  numbers = [[i for i, s in enumerate(summaries) if s.host == h] for h in range(place.hosts)]
  trainers, rows = _trainers(summaries, advantages), {}
  for i, t in zip(numbers[place.host], done, strict=True):
    if parts[i] is not None:
      own = [trainers[path] == i for path in _paths(summaries[i])]
      rows[place.host, i] = _row(t, advantages[i], algo, own)

  def cuts(part: tuple[int, bool]) -> list[microbatches.Cut]:
    chosen = [[i for i in host if parts[i] == part] for host in numbers]
    lengths = [{i: summaries[i].length for i in host} for host in chosen]
    return microbatches.plan(lengths, config.learner, place.shards)

  planned = [(cuts((n, True)), cuts((n, False))) for n in range(algo.updates_per_batch)]
  rows |= _moved(rows, [cut for part in itertools.chain(*planned) for cut in part], gather)

  def batches(cuts: Sequence[microbatches.Cut]) -> list[Batch]:
    most, made = config.learner.pack, []
    for cut in cuts:
      shared = [[rows[name] for name in row] for row in cut.members[place.host]]
      made.append(pack(shared, cut.bucket, cut.rows, most))
    return made

  return [Update(batches(trained), batches(counted)) for trained, counted in planned]


def _moved(
  rows: Mapping[tuple[int, int], BatchRow],
  cuts: Sequence[microbatches.Cut],
  gather: Callable[[Any], list[Any]],
) -> dict[tuple[int, int], BatchRow]:
  """Those rows of other hosts that change hosts in some cut, by name."""
  moving = {
    (home, number)
    for cut in cuts
    for host, members in enumerate(cut.members)
    for home, number in itertools.chain(*members)
    if home != host
  }
  if not moving:
    return {}
  sent = gather({name: row for name, row in rows.items() if name in moving})
  return {name: row for host in sent for name, row in host.items()}


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
  """A micro-batch without a row for each shape that `updates` can make, for warming up."""
  return [
    pack([], b, microbatches.rows_per_host(b, learner, place.hosts, place.shards), learner.pack)
    for b in learner.buckets
  ]


def pack(bins: Sequence[Sequence[BatchRow]], bucket: int, count: int, most: int = 1) -> Batch:
  """Right-pads rows to [count * most, bucket], as numpy arrays.

  The rows of a bin come one behind the other. Missing rows have length and weight 0.
  """
  shape = (count * most, bucket)
  batch = Batch(
    tokens=np.zeros(shape, np.int32),
    lengths=np.zeros(shape[0], np.int32),
    loss_mask=np.zeros(shape, bool),
    sampler_logprobs=np.zeros(shape, np.float32),
    advantages=np.zeros(shape, np.float32),
    weights=np.zeros(shape[0], np.float32),
    sampled_mask=np.zeros(shape, bool),
  )
  places = [(i * most + j, row) for i, bin in enumerate(bins) for j, row in enumerate(bin)]
  for index, row in places:
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
  return BatchRow(Context(context.segments), mask, values)
