"""What of a layer the backward pass makes again, by name (`policy.remat`): memory against time.

A layer's input is kept in any case. With D embed, F hidden and A = (query heads + key heads) * head
size components, in the compute dtype, for each layer and token:
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# A layer as a scan takes it.
Layer = Callable[..., Any]
Remat = Callable[[Layer], Layer]
# As `decoder` calls queries, keys, values and what attention makes of them.
ATTENTION = 'attention'


def none(layer: Layer) -> Layer:
  """Nothing is: about 8 D + 4 A + 4 F are kept, and what the kernel of attention keeps."""
  return layer


def keep_products(layer: Layer) -> Layer:
  """All but products with weights, 2 D + 2 A + 2 F: attention, norms and rotations are."""
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return jax.checkpoint(layer, prevent_cse=False, policy=policy)


def keep_attention(layer: Layer) -> Layer:
  """All but what goes into attention and comes out, 2 A: the products of the MLP are."""
  policy = jax.checkpoint_policies.save_only_these_names(ATTENTION)
  return jax.checkpoint(layer, prevent_cse=False, policy=policy)


def full(layer: Layer) -> Layer:
  """Everything is: nothing else is kept. Costs another forward pass."""
  return jax.checkpoint(layer, prevent_cse=False)
