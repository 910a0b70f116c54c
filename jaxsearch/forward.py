"""The forward pass of the learner: from a batch to the log-probabilities of its tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch import config as config_lib
from jaxsearch import plugins, weights
from jaxsearch.algo import logprobs, packing
from jaxsearch.algo.objective import Batch
from jaxsearch.models import remat
from jaxsearch.models.decoder import Project

Params = Any


class Forward:
  """Looks up what the configuration names; a call is pure, and meant for the inside of jit."""

  def __init__(self, config: config_lib.Config, size: Any, mesh: Mesh, project: Project):
    """`project` is what multiplies by matrices.

    Raises:
      UserError: for a name that does not exist.
    """
    self._policy, self._size, self._project = config.policy, size, project
    self._model = plugins.load('models', type(size).__module__.rpartition('.')[2])
    self._remat = plugins.function(remat, config.policy.remat)
    self._attend = plugins.load('models.attentions', config.policy.attention).make(mesh)
    self._pack = config.learner.pack
    self._temperature = config.rollout.temperature
    # Per group of devices that shares rows, so that the products keep their shape on any mesh.
    self._chunk = config.learner.logprob_chunk * mesh.shape['data'] * mesh.shape['fsdp']

  def __call__(self, params: Params, base: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(log p of every token, entropy of its distribution), float32 [B,T], 0 at entry 0.

    Args:
      params: what is trained.
      base: what is frozen beneath it.
      batch: rows, of which each `learner.pack` share one in the decoder.
    """
    model, params = self._model, weights.combined(base, params)
    T = batch.tokens.shape[1]
    # Whatever a family makes of ids that do not exist: NaN in padding would pass through
    # attention, where a weight of 0 does not stop it.
    tokens_BT = jnp.where(jnp.arange(T) < batch.lengths[:, None], batch.tokens, 0)
    layout, attend, positions_BT = None, self._attend, None
    if self._pack > 1:
      layout = packing.layout(batch.lengths, self._pack, T)
      # Only differences of positions count, but small ones have phases as exact as the sampler's.
      tokens_BT, positions_BT = layout.pack(tokens_BT), layout.positions_NT
      attend = lambda q, k, v: self._attend(q, k, v, layout.segments_NT)
    x_BTD = model.hidden(
      params,
      self._size,
      tokens_BT,
      dtype=jnp.dtype(self._policy.dtype),
      remat=self._remat,
      scan=self._policy.scan,
      attend=attend,
      project=self._project,
      positions_BT=positions_BT,
    )
    found = logprobs.token_logprobs(
      x_BTD,
      model.unembedding(params, self._size),
      tokens_BT,
      temperature=self._temperature,
      chunk=self._chunk,
    )
    return found if layout is None else tuple(layout.unpack(v).at[:, 0].set(0.0) for v in found)
