"""Update rules by hand: what Muon does to matrices, and AdamW to all else."""

import jax
import numpy as np
import optax
import pytest

from jaxsearch import config
from jaxsearch.algo import optimizer
from jaxsearch.models import decoder
from jaxsearch.types import UserError

SIZE = decoder.Size(
  vocab=20, layers=2, embed=16, heads=2, kv_heads=1, head_size=8, hidden=24, attention_bias=True
)


def _step(**options):
  params = decoder.init(jax.random.key(0), SIZE)
  keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
  tree = jax.tree.unflatten(jax.tree.structure(params), keys)
  grads = jax.tree.map(lambda p, k: jax.random.normal(k, p.shape), params, tree)
  rule = optimizer.make(config.Optimizer(learning_rate=0.1, grad_clip=1e9, **options))
  updates, _ = rule.update(grads, rule.init(params), params)
  return grads, updates


def test_muon_makes_every_direction_of_a_matrix_as_long():
  grads, updates = _step(name='muon', weight_decay=0.0)
  matrices = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates['layers']):
    if path[-1].key == 'kernel':
      leaf = np.asarray(leaf)
      if path[-2].key in ('query', 'key', 'value'):
        leaf = np.moveaxis(leaf, 1, 2)  # [L, heads, D, H]
      matrices += list(leaf.reshape(-1, *leaf.shape[-2:]))
  assert len(matrices) == 2 * (2 + 1 + 1 + 2 + 3)
  for matrix in matrices:
    singular = np.linalg.svd(matrix, compute_uv=False)
    # Five Newton-Schulz iterations bring them to about 1, not quite.
    assert singular.max() / singular.min() < 2.2
    # As long as a step of AdamW: 0.2 of the learning rate.
    assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.02, rel=0.25)


def test_muon_leaves_all_else_to_adamw():
  grads, updates = _step(name='muon', weight_decay=0.0)
  bias = lambda tree: tree['layers']['attention']['query']['bias']
  # With Nesterov's momentum a first step is longer: 0.9 (1 - 0.9) / (1 - 0.9²) + 1 of the rate.
  for step, grad in (
    (updates['embed'], grads['embed']),
    (updates['norm'], grads['norm']),
    (bias(updates), bias(grads)),
  ):
    np.testing.assert_allclose(step, -0.14737 * np.sign(grad), rtol=1e-3)


def test_rules_are_found_by_name():
  with pytest.raises(UserError, match="Did you mean 'muon'"):
    optimizer.make(config.Optimizer(name='muom'))
  assert isinstance(optimizer.make(config.Optimizer()), optax.GradientTransformation)
