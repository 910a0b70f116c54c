"""Which contexts share a row, which rows a micro-batch, and which host packs them.

All devices work through a micro-batch together, so what an update costs is the number of
micro-batches. Hosts whose rollouts left them with more or longer rows than others therefore hand
some over.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from jaxsearch import config as config_lib
from jaxsearch.types import UserError

# The contexts of a row: (host that made it, its number there) of each.
Row = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Cut:
  """One micro-batch of the plan: [rows * hosts, bucket].

  Attributes:
    bucket: padded length.
    rows: rows of each host.
    members: per host, the rows that it packs, at most `rows`; of each, the contexts that share it,
      at most `learner.pack`.
  """

  bucket: int
  rows: int
  members: tuple[tuple[Row, ...], ...]


def plan(
  lengths: Sequence[Mapping[int, int]], learner: config_lib.Learner, shards: int
) -> list[Cut]:
  """Cuts all hosts' contexts into as few micro-batches as hold them, largest buckets first.

  A micro-batch takes as many rows of each host as of any other, while there are as many; a host
  that has fewer packs rows of those that have more. Rows of one bucket stay in order: sorted by
  length, the rows of a micro-batch would be alike.

  Args:
    lengths: per host, the number of each of its contexts -> its tokens.
    learner: buckets and tokens of a micro-batch, contexts of a row.
    shards: parts over which all rows of a micro-batch are split on the mesh.

  Raises:
    UserError: if a context is longer than the last bucket.
  """
  longest = max((n for host in lengths for n in host.values()), default=0)
  if longest > learner.buckets[-1]:
    raise UserError(
      f'a row of {longest} tokens fits no bucket of learner.buckets={learner.buckets}; the last '
      'bucket must hold rollout.context_tokens.'
    )
  order = []  # (-bucket, turn, host, row): hosts take turns.
  for host, own in enumerate(lengths):
    turns = collections.Counter()
    for bin in bins(own, learner.buckets[-1], learner.pack):
      bucket = next(b for b in learner.buckets if b >= sum(own[number] for number in bin))
      order.append((-bucket, turns[bucket], host, tuple((host, number) for number in bin)))
      turns[bucket] += 1
  order.sort()
  cuts = []
  while order:
    bucket, hosts = -order[0][0], len(lengths)
    rows = rows_per_host(bucket, learner, hosts, shards)
    taken = [row for *_, row in order[: rows * hosts]]
    cuts.append(Cut(bucket, rows, _spread(taken, rows, hosts)))
    order = order[rows * hosts :]
  return cuts


def rows_per_host(bucket: int, learner: config_lib.Learner, hosts: int, shards: int) -> int:
  """Rows of each host in a micro-batch of padded length `bucket`: the same on all shards."""
  per_shard = max(1, learner.tokens_per_microbatch // (bucket * shards))
  return per_shard * shards // hosts


def bins(lengths: Mapping[int, int], room: int, most: int) -> list[list[int]]:
  """Contexts in order into the first row that has room for them; at most `most` in one."""
  filled: list[list[int]] = []
  left: list[int] = []
  for number, length in lengths.items():
    fitting = (j for j, bin in enumerate(filled) if length <= left[j] and len(bin) < most)
    at = next(fitting, len(filled))
    if at == len(filled):
      filled.append([])
      left.append(room)
    filled[at].append(number)
    left[at] -= length
  return filled


def _spread(taken: Sequence[Row], rows: int, hosts: int) -> tuple[tuple[Row, ...], ...]:
  """Per host, what it packs of the rows of one micro-batch: its own first, then others' surplus."""
  own = [[row for row in taken if row[0][0] == host] for host in range(hosts)]
  surplus = iter([row for mine in own for row in mine[rows:]])
  return tuple((*mine[:rows], *itertools.islice(surplus, max(rows - len(mine), 0))) for mine in own)
