"""What `bench rollout` prints, and what it says of the machine."""

from __future__ import annotations

import os
from typing import Any

import jax
import rich.console
import rich.table


def machine() -> dict[str, Any]:
  """What was measured on."""
  device = jax.devices()[0]
  return {'device': device.device_kind, 'cores': os.cpu_count(), 'jax': jax.__version__}


_COLUMNS = {
  'trajectories_per_s': 'trajectories/s',
  'policy_tokens_per_s': 'policy tokens/s',
  'all_tokens_per_s': 'all tokens/s',
  'occupancy': 'occupancy',
  'compiles_after_warmup': 'compiled',
  'live_mb': 'arrays MB',
}


def show(found: dict[str, Any]) -> None:
  """Prints the figures of `rollout.rollout`."""
  console = rich.console.Console(width=160)
  settings, machine = found['settings'], found['machine']
  where, floor = found['where'], found['floor_trajectories_per_s']
  console.print(_modes(found))
  console.print(
    f'Of the time of mode resume, every program waited for: decode {where["share_decode"]:.0%}, '
    f'extend {where["share_extend"]:.0%}, host {where["share_host"]:.0%}, waiting for searches '
    f'{where["share_wait"]:.0%}. A step of decode takes {where["decode_step_s"] * 1e3:.1f} ms, '
    f'{where["decode_step_s"] / where["decode_floor_s"]:.2f} times its floor.'
  )
  if found['steps']:
    console.print(_steps(found['steps']))
  if 'sync' in found:
    console.print(_sync(found['sync']))
  if 'gap' in found:
    gap = found['gap']
    console.print(
      f"The sampler's log-probabilities are {gap['mean']:.2g} from the learner's in the mean, "
      f'{gap["max"]:.2g} at most.'
    )
  console.print(
    f'Medians of {settings["repeats"]} interleaved runs. Floor: {floor:.3g} trajectories/s, with '
    f'{machine["flops"] / 1e9:.0f} GFLOP/s and {machine["bandwidth"] / 1e9:.1f} GB/s measured on '
    f'{machine["device"]}, {machine["cores"]} cores, jax {machine["jax"]}. Beside the arrays '
    f'programs allocate at most {max(found["temporary_mb"].values()):.0f} MB; peak memory of '
    f'everything together {found["peak_memory_mb"]:.0f} MB.'
  )


def _modes(found: dict[str, Any]) -> rich.table.Table:
  settings = found['settings']
  table = rich.table.Table(
    title=f'{settings["trace"]}, {settings["model"]}, {settings["rollout"]["slots"]} slots'
  )
  for name in ('mode', *_COLUMNS.values(), 'of the floor'):
    table.add_column(name, justify='left' if name == 'mode' else 'right')
  for mode, figures in found['modes'].items():
    cells = [_number(figures[name]) for name in _COLUMNS]
    times = found['floor_trajectories_per_s'] / figures['trajectories_per_s']
    table.add_row(mode, *cells, f'{times:.2f} x')
  return table


def _steps(steps: list[dict[str, float]]) -> rich.table.Table:
  table = rich.table.Table(title='A step of decode with so many tokens in every slot')
  for name in ('tokens', 'ms', 'floor, ms', 'of the floor'):
    table.add_column(name, justify='right')
  for step in steps:
    milliseconds = (f'{step[name] * 1e3:.2f}' for name in ('seconds', 'floor'))
    times = step['seconds'] / step['floor']
    table.add_row(str(step['context']), *milliseconds, f'{times:.2f} x')
  return table


def _sync(sync: dict[str, Any]) -> str:
  return (
    f'New weights, {sync["bytes"] / 1e6:.1f} MB, are there in {sync["seconds"] * 1e3:.1f} ms; '
    f'{sync["compiles"]} programs compiled for it, {sync["beside_bytes"] / 1e6:.1f} MB allocated '
    f'beside them, {sync["left_bytes"] / 1e6:.1f} MB more alive afterwards.'
  )


def _number(value: float) -> str:
  """Three digits, without an exponent."""
  return f'{value:.0f}' if value >= 100 else f'{value:.3g}'
