"""How far the sampler's log-probabilities are from the learner's, on the sampler's own tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxsearch.algo import logprobs
from jaxsearch.models import decoder
from jaxsearch.types import Kind, Trajectory

_CHUNK = 512  # Tokens whose logits exist at a time.


def measure(
  params: decoder.Params, size: decoder.Size, dtype: Any, trajectories: Sequence[Trajectory]
) -> dict[str, float]:
  """Mean and largest |sampler - learner| over the policy tokens of trajectories drawn at 1.

  Args:
    params: the learner's, stacked, float32.
    size: of the policy.
    dtype: of the learner's activations and products.
    trajectories: of one context each.

  Returns:
    mean, max: in nats.
  """
  contexts = [t.contexts[0] for t in trajectories]
  width = -(-max(context.length for context in contexts) // 128) * 128
  gaps = []
  for context in contexts:
    tokens = np.zeros((1, width), np.int32)
    tokens[0, : context.length] = context.ids
    learnt = np.asarray(_learner(params, tokens, size=size, dtype=dtype))[0, : context.length]
    kinds = np.concatenate([np.full(len(s.ids), s.kind is Kind.POLICY) for s in context.segments])
    gaps.append(np.abs(context.logprobs - learnt)[kinds])
  found = np.concatenate(gaps)
  return {'mean': float(found.mean()), 'max': float(found.max())}


@functools.partial(jax.jit, static_argnames=('size', 'dtype'))
def _learner(
  params: decoder.Params, tokens_BT: jax.Array, *, size: decoder.Size, dtype: Any
) -> jax.Array:
  x_BTD = decoder.hidden(params, size, tokens_BT, dtype=dtype, scan=True)
  head_VD = decoder.unembedding(params, size)
  return logprobs.token_logprobs(x_BTD, head_VD, tokens_BT, temperature=1.0, chunk=_CHUNK)[0]
