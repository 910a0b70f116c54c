"""Several contexts in one row of a micro-batch, which see nothing of each other (`learner.pack`).

Only the forward pass knows of it: a batch holds one context a row, [bins * pack, T], of which each
`pack` rows in sequence share a bin. Their tokens are laid end to end, [bins, T], go through the
decoder with positions and attention of their own, and what comes out is put back into rows. So
losses, norms and terms are the same with it and without.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layout(NamedTuple):
  """Where tokens lie; N bins of G contexts each.

  Attributes:
    segments_NT: which context a token is of; G behind the last.
    positions_NT: its place in its context.
    sources_NT: its place in the N rows [G * T] that a batch has.
    places_NS: of each entry of those rows, its place in the bin; of padding, any.
  """

  segments_NT: jax.Array
  positions_NT: jax.Array
  sources_NT: jax.Array
  places_NS: jax.Array

  def pack(self, values_BT: jax.Array) -> jax.Array:
    """Rows of a batch -> [N,T]; behind the last context are numbers of no meaning."""
    N = self.segments_NT.shape[0]
    return jnp.take_along_axis(values_BT.reshape(N, -1), self.sources_NT, axis=1)

  def unpack(self, values_NT: jax.Array) -> jax.Array:
    """[N,T] -> rows of a batch; in their padding are numbers of no meaning."""
    T = values_NT.shape[1]
    return jnp.take_along_axis(values_NT, self.places_NS, axis=1).reshape(-1, T)


def layout(lengths_B: jax.Array, pack: int, T: int) -> Layout:
  """Of rows of these lengths, of which each `pack` share a bin and have T tokens together."""
  lengths_NG = lengths_B.reshape(-1, pack)
  ends_NG = jnp.cumsum(lengths_NG, axis=1)
  starts_NG = ends_NG - lengths_NG
  times_T = jnp.arange(T)
  segments_NT = jnp.sum(times_T[None, :, None] >= ends_NG[:, None], axis=2)
  context_NT = jnp.minimum(segments_NT, pack - 1)
  positions_NT = times_T - jnp.take_along_axis(starts_NG, context_NT, axis=1)
  # What lies behind the last context counts on from it; its place must exist.
  sources_NT = context_NT * T + jnp.minimum(positions_NT, T - 1)
  places_NGT = jnp.minimum(starts_NG[..., None] + times_T, T - 1)
  return Layout(segments_NT, positions_NT, sources_NT, places_NGT.reshape(-1, pack * T))
