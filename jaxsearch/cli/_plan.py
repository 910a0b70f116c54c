"""The verb `plan`."""

from __future__ import annotations

import os

from absl import flags

from jaxsearch import config as config_lib
from jaxsearch import validation
from jaxsearch.cli import _flags, _paths
from jaxsearch.types import UserError


def plan(argv: list[str]) -> None:
  """Say whether a run fits into a slice of TPUs, or into GPUs, and how fast it can be."""
  values = flags.FlagValues()
  rest = _flags.define_config(values, argv)
  topology = flags.DEFINE_string('topology', '', 'Slice, as v5p:2x2x2.', values)
  devices = flags.DEFINE_integer(
    'devices', 0, 'GPUs of one machine, instead.', 0, flag_values=values
  )
  chip = flags.DEFINE_string('chip', 'h100', 'Kind of these GPUs.', values)
  model = flags.DEFINE_string('model', '', 'Name in models/sizes; empty: policy.path.', values)
  out = flags.DEFINE_string('json', '', 'File to write the figures to.', values)
  _flags.parse('plan', values, rest)
  config = values['config'].value
  if bool(topology.value) == bool(devices.value):
    raise UserError('give either --topology=v5p:2x2x2 (a slice of TPUs) or --devices=8 (GPUs).')
  validation.validate(config, 'plan')
  if out.value:
    _paths.require_file_place('--json', out.value)
  # Only compilers and pretend devices are needed: a machine's real ones are left to others.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  from jaxsearch import plan as plan_lib
  from jaxsearch.plan import slices

  size = _size(config, model.value)
  if topology.value:
    on = slices.tpus(topology.value)
  else:
    on = slices.gpus(devices.value, chip.value)
  plan_lib.plan(config, size, on, out.value)


def _size(config: config_lib.Config, model: str) -> object:
  """The size of the named model, or of the policy folder, whose weights are not read."""
  from jaxsearch import checkpoint
  from jaxsearch.models import sizes

  if model:
    return sizes.find(model)
  if os.path.isdir(config.policy.path):
    return checkpoint.read_size(config.policy.path)
  raise UserError(
    f'policy.path is {config.policy.path!r}, which is not a folder here. Its size is all that is '
    f'needed: name it with --model, one of {", ".join(sizes.SIZES)}.'
  )
