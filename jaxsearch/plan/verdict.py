"""Whether a run fits into its chips, and which knob makes it smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxsearch import config as config_lib
from jaxsearch.plan.chips import Chip
from jaxsearch.plan.figures import Figures
from jaxsearch.plan.programs import Run

# States that are there only while the policy is updated.
_PASSING = ('gradients',)


@dataclasses.dataclass(frozen=True)
class Knob:
  """A change of the configuration.

  Attributes:
    change: field and value.
    saved: bytes of a chip while the largest program runs, about.
    price: what it costs.
  """

  change: str
  saved: float
  price: str


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Of a whole run.

  Attributes:
    peaks: of each program, bytes of a chip while it runs: everything that stays, its arguments,
      temporaries, results that lie nowhere else, and the code of all programs.
    largest: the program with the highest one.
    usable: bytes that programs may fill.
    refused: programs that the compiler cannot fit into a chip by themselves.
    knobs: that make the largest peak smaller, the most helpful first.
  """

  peaks: dict[str, float]
  largest: str
  usable: float
  refused: tuple[str, ...]
  knobs: tuple[Knob, ...]

  @property
  def fits(self) -> bool:
    """Every program compiles, and its peak is within what is usable."""
    return not self.refused and self.peaks[self.largest] <= self.usable


def judge(run: Run, figures: Sequence[Figures], config: config_lib.Config, chip: Chip) -> Verdict:
  """Puts every program beside what stays on the chip while it runs."""
  code = sum(one.code for one in figures)
  takes = {planned.name: planned.takes for planned in run.programs}
  peaks = {}
  for one in figures:
    beside = sum(
      held
      for name, held in run.states.items()
      if name not in takes[one.name] and name not in _PASSING
    )
    own = one.arguments + one.temporaries + one.results - one.aliased
    peaks[one.name] = code + beside + own
  largest = max(peaks, key=lambda name: peaks[name])
  refused = tuple(one.name for one in figures if one.refusal)
  turned = next(one for one in figures if one.name == (refused[0] if refused else largest))
  knobs = _knobs(run, turned, config)
  return Verdict(peaks, largest, chip.usable, refused, tuple(knobs))


def _knobs(run: Run, largest: Figures, config: config_lib.Config) -> list[Knob]:
  """Those that save anything while `largest` runs."""
  found = [*_of_states(run, largest, config), *_of_sampling(run, config)]
  if largest.name in ('update', 'log-probs', 'reference'):
    found += _of_updates(run, largest, config)
  return sorted((knob for knob in found if knob.saved > 0), key=lambda knob: -knob.saved)


def _of_states(run: Run, largest: Figures, config: config_lib.Config) -> list[Knob]:
  states, data, fsdp = run.states, run.mesh.shape['data'], run.mesh.shape['fsdp']
  split = sum(states[name] for name in ('parameters', 'moments', 'reference'))
  split += states['gradients'] * (largest.name in ('update', 'optimizer'))
  gathers = 'weights are gathered from more chips'
  return [
    Knob(f'mesh.fsdp={2 * fsdp}, mesh.data={data // 2}', (data > 1) * split / 2, gathers),
    Knob('twice the chips, with mesh.fsdp doubled', split / 2, gathers),
    Knob('algo.kl_coef=0', states['reference'], 'another objective, without a reference'),
    Knob(
      'learner.reference_on_host=True',
      (largest.name != 'reference') * states['reference'],
      'its way to the chip, once a step',
    ),
    Knob(
      'learner.moments_on_host=True',
      (largest.name != 'optimizer') * states['moments'],
      'their way to the chip and back, once an update',
    ),
    Knob(
      'policy.dtype=bfloat16',
      (config.policy.dtype == 'float32') * (states['sampling weights'] + states['cache']) / 2,
      'rounding',
    ),
  ]


def _of_sampling(run: Run, config: config_lib.Config) -> list[Knob]:
  rollout, states = config.rollout, run.states
  half = states['cache'] / 2
  more = 2 * config.mesh.sample_tensor
  local = sum(d.process_index == 0 for d in run.mesh.devices.flat)
  can = local % more == 0 and run.size.kv_heads % more == 0
  return [
    Knob(f'rollout.slots={rollout.slots // 2}', half * (not rollout.pages), 'fewer rows at a time'),
    Knob(f'rollout.pages={rollout.pages // 2}', half * bool(rollout.pages), 'rows wait for pages'),
    Knob(f'mesh.sample_tensor={more}', can * states['sampling weights'] / 2, 'decode talks more'),
  ]


def _of_updates(run: Run, largest: Figures, config: config_lib.Config) -> list[Knob]:
  learner, shape = config.learner, run.mesh.shape
  fewest = shape['data'] * shape['fsdp'] * learner.buckets[-1]
  tokens, chunk = learner.tokens_per_microbatch, learner.logprob_chunk
  held = min(chunk, run.rows * run.length / shape['data'] / shape['fsdp'])
  logits = 12 * held * run.size.vocab / shape['tensor']
  return [
    Knob(
      f'learner.tokens_per_microbatch={max(tokens // 2, fewest)}',
      (tokens >= 2 * fewest) * largest.temporaries / 2,
      'smaller products, weights are gathered more often',
    ),
    Knob(f'learner.logprob_chunk={chunk // 2}', logits / 2, 'the output head is read more often'),
    Knob(
      'policy.remat=full',
      (config.policy.remat != 'full') * largest.temporaries / 2,
      'up to a third more work',
    ),
  ]
