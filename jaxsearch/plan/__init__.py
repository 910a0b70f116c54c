"""`jaxsearch plan`: will a run fit into a slice, and how fast can its hardware be?

Every program of the run is compiled for the slice by the compiler of TPUs, which needs none, and
read. For GPUs nothing is compiled: `estimates` says what is counted and what is estimated.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import time
from typing import Any

from jaxsearch import config as config_lib
from jaxsearch import sharding, validation
from jaxsearch.models.decoder import Size
from jaxsearch.plan import _table, estimates, figures, programs, verdict
from jaxsearch.plan.figures import Figures
from jaxsearch.plan.programs import Run
from jaxsearch.plan.slices import Slice
from jaxsearch.plan.verdict import Verdict


def plan(config: config_lib.Config, size: Size, on: Slice, json_path: str = '') -> bool:
  """Prints what a run of `config` with a policy of this size needs on a slice; whether it fits.

  Args:
    config: validated but for the devices.
    size: of the policy.
    on: what to plan for.
    json_path: file to write the figures to; empty: none.

  Raises:
    UserError: mesh, kernels or cache do not fit the devices or the policy.
  """
  start = time.perf_counter()
  sharding.require_kernels(config, on.chip.kind)
  hosts = len({device.process_index for device in on.devices})
  validation.validate(config, 'plan', hosts=hosts)
  run = programs.build(config, size, on.devices, on.host)
  done = []
  for planned in run.programs:
    if on.chip.kind == 'tpu':
      done.append(figures.compiled(planned, size, config.rollout.context_tokens))
      print(f'compiled {planned.name} in {done[-1].compile_s:.0f} s', flush=True)
    else:
      done.append(estimates.estimated(planned, run, config))
  judged = verdict.judge(run, done, config, on.chip)
  used = {
    'seconds': time.perf_counter() - start,
    'host_memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }
  _table.show(on, run, done, judged, used)
  if json_path:
    told = document(on, run, done, judged) | {'planning': used}
    pathlib.Path(json_path).write_text(json.dumps(told, indent=2) + '\n')
  return judged.fits


def document(on: Slice, run: Run, done: list[Figures], judged: Verdict) -> dict[str, Any]:
  """The figures as JSON: bytes and seconds of one chip."""
  return {
    'slice': on.name,
    'chip': dataclasses.asdict(on.chip),
    'chips': len(on.devices),
    'mesh': dict(run.mesh.shape),
    'size': dataclasses.asdict(run.size),
    'states': run.states,
    'programs': [_program(one, on, judged) for one in done],
    'largest': judged.largest,
    'fits': judged.fits,
    'refused': list(judged.refused),
    'knobs': [dataclasses.asdict(knob) for knob in judged.knobs],
  }


def _program(one: Figures, on: Slice, judged: Verdict) -> dict[str, Any]:
  plain = {k: v for k, v in vars(one).items() if k != 'collectives'}
  return plain | {
    'sent': one.sent,
    'times': one.times(on.chip),
    'seconds': one.seconds(on.chip),
    'mfu': one.mfu(on.chip),
    'peak': judged.peaks[one.name],
  }
