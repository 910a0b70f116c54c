"""What `bench rollout` prints, and what it says of the machine."""

from __future__ import annotations

import os
import resource
from typing import Any

import jax
import rich.console
import rich.table


def machine() -> dict[str, Any]:
  """What was measured on."""
  device = jax.devices()[0]
  return {'device': device.device_kind, 'cores': os.cpu_count(), 'jax': jax.__version__}


def peak_memory_mb() -> float:
  """Of the device, or where it has no memory of its own, of the process."""
  stats = jax.devices()[0].memory_stats() or {}
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return stats.get('peak_bytes_in_use', resident) / 1e6


_COLUMNS = {
  'trajectories_per_s': 'trajectories/s',
  'policy_tokens_per_s': 'policy tokens/s',
  'all_tokens_per_s': 'all tokens/s',
  'occupancy': 'occupancy',
  'compiles_after_warmup': 'compiled',
}


def show(found: dict[str, Any]) -> None:
  """Prints the figures of `rollout.rollout`."""
  settings, machine = found['settings'], found['machine']
  table = rich.table.Table(
    title=f'{settings["trace"]}, {settings["model"]}, {settings["rollout"]["slots"]} slots'
  )
  for name in ('mode', *_COLUMNS.values(), 'of the floor'):
    table.add_column(name, justify='left' if name == 'mode' else 'right')
  for mode, figures in found['modes'].items():
    cells = [f'{figures.get(name, 0.0):.3g}' for name in _COLUMNS]
    times = found['floor_trajectories_per_s'] / figures['trajectories_per_s']
    table.add_row(mode, *cells, f'{times:.2f} x')
  console = rich.console.Console(width=160)
  console.print(table)
  where, floor = found['where'], found['floor_trajectories_per_s']
  console.print(
    f'Of the time of mode resume, every program waited for: decode {where["share_decode"]:.0%}, '
    f'extend {where["share_extend"]:.0%}, host {where["share_host"]:.0%}, waiting for searches '
    f'{where["share_wait"]:.0%}. A step of decode takes {where["decode_step_s"] * 1e3:.1f} ms, '
    f'{where["decode_step_s"] / where["decode_floor_s"]:.2f} times its floor.'
  )
  if 'step' in found:
    step = found['step']
    console.print(
      f'With {step["context"]} tokens in every slot: {step["seconds"] * 1e3:.1f} ms, '
      f'{step["seconds"] / step["floor"]:.2f} times its floor.'
    )
  console.print(
    f'Medians of {settings["repeats"]} interleaved runs. Floor: {floor:.3g} trajectories/s, with '
    f'{machine["flops"] / 1e9:.0f} GFLOP/s and {machine["bandwidth"] / 1e9:.1f} GB/s measured on '
    f'{machine["device"]}, {machine["cores"]} cores, jax {machine["jax"]}. Peak memory '
    f'{found["peak_memory_mb"]:.0f} MB.'
  )
