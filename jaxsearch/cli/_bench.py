"""The verb that measures and compares: `bench`."""

from __future__ import annotations

import functools
import os

from absl import flags

from jaxsearch import config as config_lib
from jaxsearch import plugins, validation
from jaxsearch.cli import _flags, _paths, _versions
from jaxsearch.types import UserError


def bench(argv: list[str]) -> None:
  """Compare on equal terms and write it down: `bench recipes`, `bench rollout`, `bench step`."""
  subject, *rest = argv or ['']
  if subject in ('--help', '-h'):
    told = [f'  {name:<10} {function.__doc__}' for name, function in _BENCHES.items()]
    raise _flags.Help(
      '\n'.join(['`jaxsearch bench SUBJECT --help` prints the flags of one:', *told])
    )
  if subject not in _BENCHES:
    raise UserError(
      f'bench {subject!r}: say what to compare; allowed: {", ".join(_BENCHES)}.'
      f'{plugins.nearest(subject, _BENCHES)}'
    )
  _versions.warn_if_untested()
  _BENCHES[subject](rest)


def _bench_rollout(argv: list[str]) -> None:
  """Replay a workload of lengths and delays, with counterfactuals."""
  values = flags.FlagValues()
  define = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=values)
  model = flags.DEFINE_string('model', '50m', 'Name in models/sizes.', values)
  trace = flags.DEFINE_string('trace', 'search_r1', 'A shape, or a file of a trace.', values)
  modes = flags.DEFINE_list('modes', [], 'In turn; empty: all.', values)
  trajectories = define('trajectories', 40, 'Of the trace.')
  repeats = define('repeats', 5, 'Runs of every mode; medians are shown.')
  latency = flags.DEFINE_float('latency_s', 0.2, 'Of a search.', 0.0, flag_values=values)
  dtype = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'All of it.', values)
  json_path = _define_json(values)
  steps = flags.DEFINE_list(
    'step_context', [], 'Also measure a step of decode with so many tokens a row, each.', values
  )
  tensor = define('tensor', 1, 'Devices that share the weights.')
  sync = flags.DEFINE_bool('sync', True, 'Also measure how weights are brought over.', values)
  gap = flags.DEFINE_bool(
    'gap', False, "Also measure how far log-probs are from the learner's.", values
  )
  _define_knobs(values)
  _flags.parse('bench rollout', values, argv)
  if not all(step.isdecimal() and int(step) for step in steps.value):
    raise UserError(f'--step_context is {",".join(steps.value)!r}; give lengths, as 200,1000.')
  if json_path.value:
    _paths.require_file_place('--json', json_path.value)
  from jaxsearch.bench import rollout

  knobs = _knobs(values).rollout
  for mode in modes.value:
    if mode not in rollout.MODES:
      raise UserError(
        f'--modes has {mode!r}; allowed: {", ".join(rollout.MODES)}.'
        f'{plugins.nearest(mode, rollout.MODES)}'
      )
  rollout.rollout(
    rollout.Settings(
      model=model.value,
      trace=trace.value,
      trajectories=trajectories.value,
      latency_s=latency.value,
      repeats=repeats.value,
      dtype=dtype.value,
      tensor=tensor.value,
      rollout=knobs,
    ),
    modes.value or list(rollout.MODES),
    step_contexts=[int(step) for step in steps.value],
    sync=sync.value,
    gap=gap.value,
    json_path=json_path.value,
  )


def _bench_step(argv: list[str]) -> None:
  """Run the loop of training with random weights: weights over, rollout, update."""
  values = flags.FlagValues()
  define = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=values)
  model = flags.DEFINE_string('model', '50m', 'Name in models/sizes.', values)
  trace = flags.DEFINE_string('trace', 'search_r1', 'A shape, or a file of a trace.', values)
  trajectories = define('trajectories', 16, 'Of the trace, in every step.')
  rows = define('rows', 16, 'Trained in every step.')
  length = define('length', 2048, 'Tokens of each row.')
  steps = define('steps', 10, 'Of the loop.')
  flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'As policy.dtype.', values)
  tensor = define('tensor', 1, 'Devices that share the weights.')
  flags.DEFINE_string('attention', 'xla', 'As policy.attention.', values)
  flags.DEFINE_string('remat', 'full', 'As policy.remat.', values)
  flags.DEFINE_integer('lora_rank', 0, 'As policy.lora_rank.', 0, flag_values=values)
  flags.DEFINE_bool('moments_on_host', False, 'As learner.moments_on_host.', values)
  define('tokens_per_microbatch', 8192, 'As learner.tokens_per_microbatch.')
  json_path = _define_json(values)
  _define_knobs(values)
  _flags.parse('bench step', values, argv)
  if json_path.value:
    _paths.require_file_place('--json', json_path.value)
  from jaxsearch.bench import step

  step.step(
    step.Settings(
      model=model.value,
      trace=trace.value,
      trajectories=trajectories.value,
      rows=rows.value,
      length=length.value,
      steps=steps.value,
      tensor=tensor.value,
    ),
    _knobs(values),
    json_path.value,
  )


def _define_json(values: flags.FlagValues) -> flags.FlagHolder[str]:
  return flags.DEFINE_string('json', '', 'File to write the figures to.', values)


def _define_knobs(values: flags.FlagValues) -> None:
  for name, default in _KNOBS.items():
    what = f'As rollout.{name}.'
    if isinstance(default, bool):
      flags.DEFINE_bool(name, default, what, values)
    elif isinstance(default, int):
      flags.DEFINE_integer(name, default, what, min(default, 1), flag_values=values)
    else:
      flags.DEFINE_string(name, default, what, values)
  values['cache'].help = 'As rollout.cache; empty: the fastest one of this kind of device.'


def _knobs(values: flags.FlagValues) -> config_lib.Config:
  """What the flags say that are called like fields; a problem is told by the name of the flag."""
  from jaxsearch.bench import rollout
  from jaxsearch.rollout import caches

  dtype, tensor = values['dtype'].value, values['tensor'].value
  if not values['cache'].value:
    platform = rollout.devices(tensor)[0].platform
    values['cache'].value = caches.fastest(platform, dtype, tensor)
  made = config_lib.Rollout(**{name: values[name].value for name in _KNOBS})
  config = config_lib.Config(rollout=made)
  config.policy.dtype, config.mesh.sample_tensor = dtype, tensor
  for section, names in _STEP_KNOBS.items():
    for name in names:
      if name in values:
        setattr(getattr(config, section), name, values[name].value)
  found = '\n'.join(validation.problems(config, 'bench'))
  for field in ('policy.', 'mesh.sample_', 'rollout.', 'learner.'):
    found = found.replace(field, '--')
  if found:
    raise UserError(found)
  return config


def _bench_recipes(argv: list[str]) -> None:
  """Train every recipe on equal terms and write RECIPES.md."""
  values = flags.FlagValues()
  out = flags.DEFINE_string('out', 'runs/bench', 'Folder of the runs.', values)
  table = flags.DEFINE_string('table', '', 'Empty: RECIPES.md in that folder.', values)
  picture = flags.DEFINE_string('picture', '', 'Empty: recipes.png in that folder.', values)
  size = flags.DEFINE_enum('size', 'hard', ['hard', 'hard-ci'], 'hard-ci: far smaller.', values)
  seeds = flags.DEFINE_list('seeds', ['0', '1', '2'], 'A world and a start each.', values)
  only = flags.DEFINE_list('only', [], 'Recipes; empty: all, and the controls.', values)
  minutes = flags.DEFINE_float(
    'minutes', 0.0, 'Begin no run after this long; 0: no limit.', 0.0, flag_values=values
  )
  _flags.parse('bench recipes', values, argv)
  if not all(seed.isdecimal() for seed in seeds.value) or not seeds.value:
    raise UserError(f'--seeds is {",".join(seeds.value)!r}; give numbers, such as 0,1,2.')
  written = [table.value or f'{out.value}/RECIPES.md', picture.value or f'{out.value}/recipes.png']
  for thing, path in zip(
    ('--out', '--table', '--picture'), (f'{out.value}/', *written), strict=True
  ):
    _paths.require_writable(f'the folder of {thing}', os.path.dirname(os.path.abspath(path)))
  from jaxsearch.bench import recipes

  recipes.recipes(
    out.value,
    *written,
    size=size.value,
    seeds=[int(seed) for seed in seeds.value],
    only=only.value,
    minutes=minutes.value,
  )


# Fields that are flags of `bench step` besides.
_STEP_KNOBS = {
  'policy': ('attention', 'remat', 'lora_rank'),
  'learner': ('moments_on_host', 'tokens_per_microbatch'),
}
# Fields of `config.Rollout` that are flags of both, and their values there.
_KNOBS = {
  'slots': 8,
  'decode_steps': 64,
  'extend_rows': 16,
  'extend_tokens': 32,
  'block_tokens': 128,
  'pages': 0,
  'cache': '',
  'cache_dtype': '',
  'deterministic': False,
  'overlap': False,
}
_BENCHES = {'recipes': _bench_recipes, 'rollout': _bench_rollout, 'step': _bench_step}
