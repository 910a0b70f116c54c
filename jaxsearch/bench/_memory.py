"""How many bytes the arrays on the devices take, and the most that there ever were of anything.

A buffer that several arrays show, as the weights of learner and sampler may, counts once. What a
program allocates while it runs belongs to no array.
"""

from __future__ import annotations

import resource
from typing import Any

import jax


def live_bytes() -> int:
  """Of every array of this process that is alive."""
  return _bytes(jax.live_arrays())


def tree_bytes(tree: Any) -> int:
  """Of the arrays of a pytree, on all of this host's devices."""
  return _bytes(jax.tree.leaves(tree))


def peak_mb() -> float:
  """Of the first device since the start, or where it has no memory of its own, of the process."""
  stats = jax.devices()[0].memory_stats() or {}
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return stats.get('peak_bytes_in_use', resident) / 1e6


def _bytes(arrays: list[jax.Array]) -> int:
  shards = (s for a in arrays if not a.is_deleted() for s in a.addressable_shards)
  buffers = {(s.device, s.data.unsafe_buffer_pointer()): s.data.nbytes for s in shards}
  return sum(buffers.values())
