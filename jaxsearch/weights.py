"""The weights of a run: which of them are trained, which are frozen, and where they lie.

Without adapters all of a policy is trained, in float32. With `policy.lora_rank` the policy that the
run starts from stays frozen, in the compute dtype, and the adapters on it are trained. A reference
for the KL is frozen too; the start of a run with adapters is its base, which is there already.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxsearch import checkpoint, plugins, sharding
from jaxsearch import config as config_lib
from jaxsearch.huggingface import writing
from jaxsearch.models import decoder, lora
from jaxsearch.text.tokenizer import Tokenizer

Params = Any


class Weights:
  """Where the weights of one policy lie on one mesh.

  Attributes:
    base: frozen beneath the trained ones; {} without adapters.
    places: a sharding for each trained leaf.
    abstract: their shapes and dtypes.
    project: of `decoder.hidden`, for what `combined` returns.
  """

  def __init__(self, config: config_lib.Config, size: Any, mesh: Mesh, start: Params | None = None):
    """`start` is the policy that adapters go on; read only if there are any, None: only planned.

    Raises:
      UserError: if the parameters do not fit the mesh, or no family could hold the adapters.
    """
    self._config, self._size, self._mesh = config, size, mesh
    model = plugins.load('models', type(size).__module__.rpartition('.')[2])
    whole = jax.eval_shape(lambda: model.init(jax.random.key(0), size))
    self._whole_places = sharding.shardings(whole, model.AXES, mesh)
    self._dtype = jnp.dtype(config.policy.dtype)
    self._freeze = jax.jit(
      lambda params: decoder.cast(params, self._dtype), out_shardings=self._whole_places
    )
    self._frozen = jax.tree.map(
      lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
      jax.eval_shape(self._freeze, whole),
      self._whole_places,
    )
    self.base: Params = {}
    self.abstract, self.places, self.project = whole, self._whole_places, decoder.project
    rank = config.policy.lora_rank
    if rank:
      writing.family(size)  # Or they could not be written when the run ends.
      make = functools.partial(lora.init, params=whole, rank=rank)
      self._scale = config.policy.lora_alpha / rank
      self.project = functools.partial(lora.project, scale=self._scale)
      self.abstract = jax.eval_shape(make, jax.random.key(0))
      self.places = sharding.shardings(self.abstract, lora.AXES, mesh)
      self.base = self._frozen if start is None else self._freeze(start)
      self._make = jax.jit(make, out_shardings=self.places)
      self._merge = jax.jit(
        lambda base, trained, dtype: lora.merge(lora.combine(base, trained), self._scale, dtype),
        static_argnums=2,
        out_shardings=self._whole_places,
      )

  def trained(self, params: Params) -> Params:
    """What is trained at the start of a run from `params`."""
    return self._make(jax.random.key(self._config.seed)) if self.base else params

  def load_reference(self, params: Params) -> Params | None:
    """The frozen policy that the KL is measured to: `policy.reference`, or the run's start.

    In the compute dtype, which loses nothing: a forward pass makes the same of the weights.

    Args:
      params: the policy that the run starts from.

    Returns:
      {} where it is the one beneath the adapters; None without KL. It lies in the memory of the
      hosts if `learner.reference_on_host`.

    Raises:
      UserError: as `checkpoint.load_reference`.
    """
    if not self._config.algo.kl_coef:
      return None
    named = checkpoint.load_reference(self._config, self._size, self._mesh)
    if named is None and self.base:
      return {}
    frozen = self._freeze(params if named is None else named)
    if self._config.learner.reference_on_host:
      frozen = jax.tree.map(lambda leaf: jax.device_put(leaf, on_host(leaf.sharding)), frozen)
      self.at_hand(frozen)  # Several processes compile something for it.
    return frozen

  def abstract_reference(self) -> Params | None:
    """Shapes of what `load_reference` returns, where a program reads it."""
    if not self._config.algo.kl_coef:
      return None
    return {} if self.base and not self._config.policy.reference else self._frozen

  def at_hand(self, reference: Params | None) -> Params | None:
    """The same where a program can read it."""
    if not (self._config.learner.reference_on_host and reference):
      return reference
    return jax.tree.map(jax.device_put, reference, self._whole_places)

  def merged(self, trained: Params, dtype: Any = None) -> Params:
    """The whole policy: what is trained, or with adapters in `dtype`, else the compute dtype."""
    return self._merge(self.base, trained, dtype or self._dtype) if self.base else trained

  def abstract_merged(self, trained: Params) -> Params:
    """Shapes of what `merged` returns for the sampler."""
    return self._frozen if self.base else trained

  def export(self, trained: Params, tokenizer: Tokenizer) -> None:
    """Writes RUN/policy, the whole policy, and its adapters, if there are any, as RUN/adapters."""
    folder = pathlib.Path(self._config.run_dir)
    merged = self.merged(trained, jnp.float32)
    checkpoint.save_policy(folder / 'policy', self._size, merged, tokenizer)
    if self.base:
      checkpoint.save_adapters(folder / 'adapters', self._size, trained, self._config.policy)


def combined(base: Params, trained: Params) -> Params:
  """What a forward pass reads."""
  return lora.combine(base, trained) if base else trained


def on_host(place: NamedSharding) -> NamedSharding:
  """The same place in the memory of its host, from which a device copies fast."""
  return place.with_memory_kind('pinned_host')
