"""What one field of a configuration allows another: read by `validation`."""

from __future__ import annotations

import importlib.resources
import re

from jaxsearch import config as config_lib
from jaxsearch import plugins


def relations(c: config_lib.Config, hosts: int) -> list[tuple[str, bool, str]]:
  """(field, whether it fits others, what would) of the fields that depend on each other.

  Args:
    c: a configuration whose fields have the right types.
    hosts: processes that take part.
  """
  tensor, buckets, r, m = max(c.mesh.tensor, 1), c.learner.buckets, c.rollout, c.model
  ascending = bool(buckets) and all(a < b for a, b in zip((0, *buckets), buckets, strict=False))
  return [
    ('learner.buckets', ascending, 'positive lengths, ascending'),
    (
      'learner.buckets',
      not ascending or buckets[-1] >= r.context_tokens,
      f'a last length of at least rollout.context_tokens = {r.context_tokens}',
    ),
    (
      'rollout.policy_tokens',
      r.policy_tokens < r.context_tokens,
      f'below rollout.context_tokens = {r.context_tokens}',
    ),
    (
      'rollout.block_tokens',
      r.block_tokens >= r.extend_tokens or r.cache not in ('blocked', 'paged'),
      f'at least rollout.extend_tokens = {r.extend_tokens}, with a cache in blocks',
    ),
    *_pages(r),
    *_native(c),
    *(
      (
        f'{name}.answer_tokens',
        s.answer_tokens < s.context_tokens or s.backend != 'engine_simulator',
        f'below {name}.context_tokens = {s.context_tokens}, with engine_simulator',
      )
      for name, s in (('retrieval', c.retrieval), ('eval_retrieval', c.eval_retrieval))
    ),
    *_servers(c),
    *_algo(c, hosts),
    *_shapes(m, tensor),
  ]


def _servers(c: config_lib.Config) -> list[tuple[str, bool, str]]:
  """The same, of retrieval over HTTP."""
  sections = {'retrieval': c.retrieval, 'eval_retrieval': c.eval_retrieval}
  return [
    (
      f'{name}.url',
      s.backend != 'http'
      or all(part.strip().startswith(('http://', 'https://')) for part in re.split('[,;]', s.url)),
      "addresses of servers, such as 'http://localhost:8000', with backend 'http'",
    )
    for name, s in sections.items()
  ]


def _algo(c: config_lib.Config, hosts: int) -> list[tuple[str, bool, str]]:
  """The same, of what is trained and how."""
  return [
    (
      'algo.questions_per_step',
      c.algo.questions_per_step % hosts == 0,
      f'a multiple of the {hosts} hosts',
    ),
    (
      'rollout.leaves',
      c.rollout.leaves <= c.algo.group_size,
      f'at most algo.group_size = {c.algo.group_size}',
    ),
    (
      'algo.updates_per_batch',
      c.algo.questions_per_step >= c.algo.updates_per_batch * hosts,
      f'at most algo.questions_per_step = {c.algo.questions_per_step} over {hosts} hosts',
    ),
    (
      'algo.importance_cap',
      not c.algo.importance_cap or c.algo.old_logprobs == 'learner',
      "0, or algo.old_logprobs='learner'",
    ),
    (
      'learner.pack',
      c.learner.pack == 1 or _keeps_apart(c.policy.attention),
      f'1, with policy.attention={c.policy.attention!r}, which cannot keep contexts apart',
    ),
    (
      'optimizer.name',
      not c.policy.lora_rank or c.optimizer.name != 'muon',
      'adamw, with policy.lora_rank: adapters are no matrices for it',
    ),
    (
      'algo.loss_tokens',
      c.algo.loss_tokens == 'policy' or not c.algo.whiten,
      'policy, with algo.whiten',
    ),
  ]


def _keeps_apart(attention: str) -> bool:
  """Whether a file of models/attentions takes segments, read without importing it: it has JAX."""
  if attention not in plugins.names('models.attentions'):
    return True  # Which is told elsewhere.
  folder = importlib.resources.files('jaxsearch').joinpath('models', 'attentions')
  return 'SEGMENTS = True' in folder.joinpath(f'{attention}.py').read_text()


def _pages(r: config_lib.Rollout) -> list[tuple[str, bool, str]]:
  """The same, of a cache whose memory is bounded."""
  # A full row, a chunk behind it, and a page that is nobody's. What a reward may force besides is
  # known to the engine, which refuses too few pages itself.
  room = r.context_tokens + r.extend_tokens
  paged = r.cache in ('native', 'paged', 'ragged')
  least = 1 + -(-room // max(r.block_tokens, 1))
  return [
    ('rollout.pages', paged or not r.pages, '0, or a rollout.cache of pages'),
    (
      'rollout.pages',
      not r.pages or r.pages >= least,
      f'0, or at least {least}, so that a row of rollout.context_tokens fits',
    ),
    ('rollout.leaves', not r.pages or r.leaves == 1, '1, with rollout.pages'),
    (
      'rollout.cache_dtype',
      not r.cache_dtype or r.cache in ('blocked', 'paged'),
      "empty, or rollout.cache='blocked' or 'paged'",
    ),
  ]


def _native(c: config_lib.Config) -> list[tuple[str, bool, str]]:
  """The same, of what the kernels for CPUs can do (kernels/cpu.cc)."""
  if c.rollout.cache != 'native':
    return []
  why = "with rollout.cache='native'"
  return [
    ('rollout.block_tokens', c.rollout.block_tokens % 64 == 0, f'a multiple of 64, {why}'),
    ('policy.dtype', c.policy.dtype == 'float32', f'float32, {why}'),
    ('mesh.sample_tensor', c.mesh.sample_tensor == 1, f'1, {why}, which uses all cores as it is'),
  ]


def _shapes(m: config_lib.Model, tensor: int) -> list[tuple[str, bool, str]]:
  """The same, of a new policy's size."""
  unused = not m.tokenizer  # The policy is one that is there; `sharding` looks at its size.
  return [
    ('model.head_size', m.head_size % 2 == 0, 'even, for rotary positions'),
    (
      'model.copying_heads',
      not m.copying_heads or (m.attention_bias and not m.qk_norm and m.kv_heads == m.heads > 1),
      'only with attention_bias, without qk_norm, and two or more heads, kv_heads as many',
    ),
    ('model.kv_heads', m.heads % max(m.kv_heads, 1) == 0, f'a divisor of {m.heads} heads'),
    ('model.kv_heads', unused or m.kv_heads % tensor == 0, f'a multiple of mesh.tensor = {tensor}'),
    ('model.hidden', unused or m.hidden % tensor == 0, f'a multiple of mesh.tensor = {tensor}'),
  ]
