"""Figures of programs that are not compiled, for GPUs: counted where possible, else estimated.

Exact are the states and the operations. Estimated are

  temporaries of an update: what is kept of all layers (policy.remat); what one layer makes forward
    and backward; the weights of two layers, as they are gathered and cast; three float32 arrays of
    logits of one chunk; the output head, as it is cast, and its gradient. Of log-probabilities:
    the same without a backward pass. Of the weight sync: weights that are cast and cut into layers,
    not yet gathered. Of decode and extend: logits, and activations of one layer.
  memory traffic: the states that a program takes and makes, and its temporaries, written and read.
  collectives: weights are gathered over `fsdp` forward and backward, gradients are scattered in
    float32; over `tensor`, activations are summed twice in each layer forward, and again backward.

Temporaries that would be estimated for TPUs, beside what their compiler takes (Qwen2.5 7B on
v5p:2x2x2, GiB): update 13.2 and 13.5, log-probabilities 4.2 and 2.7, weight sync 3.5 and 3.6,
decode 0.12 and 0.29, extend 0.33 and 0.12.

Attention is counted over whole squares: cuDNN leaves out what lies above the diagonal.
"""

from __future__ import annotations

from jaxsearch import config as config_lib
from jaxsearch.models.decoder import Size
from jaxsearch.plan.figures import Figures
from jaxsearch.plan.programs import Planned, Run
from jaxsearch.plan.traffic import Collective

_FORWARD = ('log-probs', 'reference')
_ENGINE = ('decode', 'extend', 'score', 'fork')


def estimated(planned: Planned, run: Run, config: config_lib.Config) -> Figures:
  """Figures of one program of a run on GPUs."""
  name, states, devices = planned.name, run.states, planned.mesh.size
  given_up = ('sampling weights',) if name == 'weight sync' else ()
  taken = sum(states[state] for state in planned.takes if state not in given_up)
  made = {
    'update': states['gradients'],
    'optimizer': states['parameters'] + states['moments'],
    'weight sync': states['sampling weights'],
    'log-probs': 0.0,
    'reference': 0.0,
  }.get(name, states['cache'])
  temporaries = _temporaries(name, run, config)
  moved = taken + made
  if name in _ENGINE:
    lanes = 1.0 if name == 'decode' else config.rollout.extend_rows / config.rollout.slots
    moved = states['cache'] * lanes
    moved += moved if name == 'fork' else states['sampling weights']
  return Figures(
    name,
    planned.unit,
    arguments=taken + (run.batch if name in ('update', *_FORWARD) else 0.0),
    temporaries=temporaries,
    results=made,
    aliased=0.0 if name in ('weight sync', *_FORWARD) else made,
    code=0.0,
    operations=planned.operations / devices,
    useful=planned.useful / devices,
    moved=moved + 2 * temporaries,
    collectives=tuple(_collectives(planned, run, config)),
  )


def _temporaries(name: str, run: Run, config: config_lib.Config) -> float:
  size, tensor, rollout = run.size, run.mesh.shape['tensor'], config.rollout
  width, sampling = _width(config), config.mesh.sample_tensor
  if name == 'decode':
    return rollout.slots * (_layer(size, sampling, width) + 12 * size.vocab / sampling)
  if name in ('extend', 'score'):
    # The rows that are extended, taken out of the cache of one layer, and a mask.
    kept = 2 * width * max(1, size.kv_heads // sampling) * size.head_size
    row = rollout.context_tokens * (kept + rollout.extend_tokens)
    return rollout.extend_rows * (rollout.extend_tokens * _layer(size, sampling, width) + row)
  if name == 'weight sync':
    return 2 * _width(config) * run.parameters / run.mesh.size
  if name not in ('update', *_FORWARD):
    return 0.0
  tokens = _tokens(run)
  layer, head = tokens * _layer(size, tensor, width), size.vocab * size.embed / tensor
  kept = tokens * _kept(size, tensor, width, config.policy.remat)
  chunk = min(tokens, config.learner.logprob_chunk) * size.vocab / tensor * 12
  weights = 2 * width * run.parameters / tensor / size.layers
  if name in _FORWARD:
    return layer + chunk + head * width + weights
  return size.layers * kept + 2 * layer + chunk + head * (width + 4) + weights


def _collectives(planned: Planned, run: Run, config: config_lib.Config) -> list[Collective]:
  size, shape, width = run.size, planned.mesh.shape, _width(config)
  weights, found = run.parameters / run.mesh.shape['tensor'], []
  gradients = run.states['gradients']

  def add(kind: str, axis: str, size: float, times: float) -> None:
    if shape.get(axis, 1) > 1:
      found.append(Collective(kind, (), size, times, (tuple(range(shape[axis])),), axis))

  if planned.name == 'weight sync':
    add('all-gather', 'fsdp', width * weights, 1)
  if planned.name in ('update', *_FORWARD):
    backward = planned.name == 'update'
    add('all-gather', 'fsdp', width * weights, 1 + backward)
    add('reduce-scatter', 'fsdp', gradients * shape['fsdp'], backward)
    add('all-reduce', 'data', gradients, backward)
    sums = (2 + 2 * backward) * size.layers
    add('all-reduce', 'tensor', width * size.embed * _tokens(run), sums)
  if planned.name in ('decode', 'extend', 'score'):
    rollout = config.rollout
    chunk = rollout.extend_rows * rollout.extend_tokens
    tokens = rollout.slots if planned.name == 'decode' else chunk
    add('all-reduce', 'tensor', width * size.embed * tokens, 2 * size.layers)
  return [one for one in found if one.times]


def _width(config: config_lib.Config) -> int:
  return 4 if config.policy.dtype == 'float32' else 2


def _tokens(run: Run) -> float:
  """Of a micro-batch, those of one row of chips."""
  return run.rows * run.length / run.mesh.shape['data'] / run.mesh.shape['fsdp']


def _kept(size: Size, tensor: int, width: int, remat: str) -> float:
  """Bytes of a token that are kept of one layer until its backward pass; see `models/remat`."""
  attention = (size.heads + size.kv_heads) * size.head_size / tensor
  return {
    'none': _layer(size, tensor, width),
    'keep_products': width * (3 * size.embed + 2 * attention + 2 * size.hidden / tensor),
    'keep_attention': width * (size.embed + 2 * attention),
    'full': width * size.embed,
  }[remat]


def _layer(size: Size, tensor: int, width: int) -> float:
  """Bytes of a token that one layer makes: its ends, norms, heads, and the three of the MLP."""
  heads = 2 * (size.heads + size.kv_heads) * size.head_size
  return width * (4 * size.embed + (heads + 3 * size.hidden) / tensor)
