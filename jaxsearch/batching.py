"""From contexts to micro-batches: padding appears here for the first time.

Rows are cut into micro-batches by a plan that is a pure function of every host's row lengths, so
that all hosts make the same calls with the same shapes; a host that runs out of rows fills up with
rows of length and weight 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsearch import config as config_lib
from jaxsearch.learner import Batch
from jaxsearch.types import Context, UserError


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


def plan(
  lengths: Sequence[Sequence[int]], learner: config_lib.Learner, shards: int
) -> list[Cut]:
  """Cuts every host's rows into micro-batches of similar length, longest first.

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
  orders = [sorted(range(len(host)), key=lambda i, host=host: -host[i]) for host in lengths]
  cuts = []
  while any(orders):
    first = max(host[order[0]] for host, order in zip(lengths, orders) if order)
    bucket = next(b for b in learner.buckets if b >= first)
    rows = microbatch_rows(bucket, learner, len(lengths), shards)
    cuts.append(Cut(bucket, rows, tuple(tuple(order[:rows]) for order in orders)))
    orders = [order[rows:] for order in orders]
  return cuts


def microbatch_rows(bucket: int, learner: config_lib.Learner, hosts: int, shards: int) -> int:
  """Rows of each host in a micro-batch of padded length `bucket`: the same on all shards."""
  per_shard = max(1, learner.tokens_per_microbatch // (bucket * shards))
  return per_shard * shards // hosts


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
