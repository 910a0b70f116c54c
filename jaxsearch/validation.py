"""Refuses a configuration that cannot work, before anything is compiled or written.

Everything that can be told without JAX is told here, all problems together; whether the mesh
divides the devices is told by `sharding`.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence

from jaxsearch import config as config_lib
from jaxsearch import fields, files, plugins, relations
from jaxsearch.types import UserError

# Every number must be positive, except these.
_ZERO_OR_MORE = (
  'algo.entropy_coef',
  'algo.importance_cap',
  'algo.kl_coef',
  'eval_retrieval.cache_queries',
  'eval_retrieval.hedge',
  'eval_retrieval.noise_end',
  'eval_retrieval.noise_start',
  'eval_retrieval.probes',
  'eval_retrieval.retries',
  'eval_retrieval.window_ms',
  'eval_retrieval.worker_gib',
  'optimizer.decay_steps',
  'optimizer.warmup_steps',
  'optimizer.weight_decay',
  'policy.lora_rank',
  'retrieval.cache_queries',
  'retrieval.hedge',
  'retrieval.noise_end',
  'retrieval.noise_start',
  'retrieval.probes',
  'retrieval.retries',
  'retrieval.window_ms',
  'retrieval.worker_gib',
  'rollout.max_searches',
  'rollout.observation_tokens',
  'rollout.pages',
  'rollout.turn_tokens',
  'schedule.eval_questions',
  'schedule.generated_tokens',
  'schedule.infra_limit',
  'seed',
  'warmstart.observation_weight',
  'warmstart.optimizer.decay_steps',
  'warmstart.optimizer.warmup_steps',
  'warmstart.optimizer.weight_decay',
)
_BELOW_ONE = (
  'algo.clip_low',
  'optimizer.b1',
  'optimizer.b2',
  'warmstart.optimizer.b1',
  'warmstart.optimizer.b2',
)
_AT_MOST_ONE = (
  'eval_retrieval.hedge',
  'eval_retrieval.noise_end',
  'eval_retrieval.noise_start',
  'retrieval.hedge',
  'retrieval.noise_end',
  'retrieval.noise_start',
  'schedule.infra_limit',
)
_AXES = ('mesh.data', 'mesh.fsdp', 'mesh.tensor')


def validate(
  config: config_lib.Config, verb: str, *, hosts: int = 1, made: Sequence[str] = ()
) -> None:
  """Refuses a configuration in which `problems` finds any.

  Raises:
    UserError: lists every problem: the field, its value, what is allowed.
  """
  found = problems(config, verb, hosts=hosts, made=made)
  if found:
    raise UserError(
      f'{len(found)} problem(s) in the configuration; mend the file or override with '
      '--config.NAME=VALUE.\n' + '\n'.join(f'  {line}' for line in found)
    )


def problems(
  config: config_lib.Config, verb: str, *, hosts: int = 1, made: Sequence[str] = ()
) -> list[str]:
  """Everything that can be checked without starting JAX or writing a file, a line a problem.

  Args:
    config: after all overrides.
    verb: of the command line; decides which files must be there.
    hosts: processes that take part.
    made: policy folders that need not be there yet, because earlier phases write them.
  """
  found = [
    line
    for name, _ in fields.walk(config)
    for line in fields.unknown(name, f'{name} is set by the configuration file')
  ]
  checked = copy.deepcopy(config)
  for name, default in fields.flatten(config_lib.Config()):
    value = operator.attrgetter(name)(config)
    if not _has_type_of(value, default):
      found.append(f'{name} is {value!r}; allowed: a {type(default).__name__}.')
      section, _, leaf = name.rpartition('.')
      setattr(operator.attrgetter(section)(checked) if section else checked, leaf, default)
  found += _bounds(checked, hosts) + _choices(checked) + files.problems(checked, verb, made)
  if verb == 'train' and checked.algo.group_size == 1 and checked.algo.advantage != 'raw_reward':
    found.append('algo.group_size is 1; allowed: at least 2, or nothing is compared.')
  return found


def _has_type_of(value: object, default: object) -> bool:
  if isinstance(default, float):
    return isinstance(value, int | float) and not isinstance(value, bool)
  if isinstance(default, tuple):
    return isinstance(value, tuple | list) and all(type(item) is int for item in value)
  return type(value) is type(default)


def _bounds(c: config_lib.Config, hosts: int) -> list[str]:
  values = dict(fields.flatten(c))
  rows = [(name, values[name] >= 0, '0 or more') for name in _ZERO_OR_MORE]
  rows += [(name, 0 <= values[name] < 1, 'from 0 to below 1') for name in _BELOW_ONE]
  rows += [(name, values[name] <= 1, 'at most 1') for name in _AT_MOST_ONE]
  rows += [(name, values[name] == -1 or values[name] >= 1, 'at least 1, or -1') for name in _AXES]
  rows += [
    (name, value > 0, 'above 0')
    for name, value in values.items()
    if type(value) in (int, float) and name not in (*_ZERO_OR_MORE, *_BELOW_ONE, *_AXES)
  ]
  free = [name for name in _AXES if values[name] == -1]
  rows += [(name, False, f'one -1 only, and {free[0]} is -1 already') for name in free[1:]]
  rows += relations.relations(c, hosts)
  return [f'{name} is {values[name]!r}; allowed: {what}.' for name, fine, what in rows if not fine]


def _choices(c: config_lib.Config) -> list[str]:
  values = dict(fields.flatten(c))
  backends, rules = plugins.names('retrieval.backends'), plugins.functions('algo', 'rules')
  dialects = plugins.names('retrieval.dialects')
  allowed = {
    'policy.dtype': ['bfloat16', 'float32'],
    'policy.attention': plugins.names('models.attentions'),
    'policy.remat': plugins.functions('models', 'remat'),
    'protocol.name': plugins.names('protocols'),
    'protocol.form': ['base', 'instruct'],
    'retrieval.backend': backends,
    'eval_retrieval.backend': backends,
    'retrieval.dialect': dialects,
    'eval_retrieval.dialect': dialects,
    'retrieval.encoder_dtype': ['float32', 'bfloat16'],
    'eval_retrieval.encoder_dtype': ['float32', 'bfloat16'],
    'retrieval.mode': ['prompted', 'tuned'],
    'eval_retrieval.mode': ['prompted', 'tuned'],
    'questions.source': plugins.names('sources'),
    'rollout.cache': plugins.names('rollout.caches'),
    'rollout.cache_dtype': ['', 'bfloat16', 'int8'],
    'reward.name': plugins.names('rewards'),
    'algo.advantage': plugins.functions('algo', 'advantages'),
    'algo.policy_loss': plugins.functions('algo', 'losses'),
    'optimizer.name': rules,
    'warmstart.optimizer.name': rules,
    'algo.kl': plugins.functions('algo', 'kl'),
    'algo.kl_place': ['loss', 'reward'],
    'algo.old_logprobs': ['learner', 'sampler'],
    'algo.selector': plugins.functions('algo', 'selectors'),
    'schedule.export': ['best', 'newest'],
    'algo.loss_norm': ['constant', 'sequence', 'token'],
    'algo.loss_tokens': ['all', 'policy'],
  }
  problems = []
  for name, choices in allowed.items():
    if values[name] not in choices:
      hint = plugins.nearest(values[name], choices)
      problems.append(f'{name} is {values[name]!r}; allowed: {", ".join(choices)}.{hint}')
  return problems + _terms(c.algo.terms)


def _terms(text: str) -> list[str]:
  choices = plugins.functions('algo', 'terms')
  try:
    names = plugins.weights(text)
  except UserError as error:
    return [f'algo.terms is {text!r}: {error}']
  return [
    f'algo.terms is {text!r}; allowed: {", ".join(choices)}.{plugins.nearest(name, choices)}'
    for name in names
    if name not in choices
  ]
