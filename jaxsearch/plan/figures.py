"""Figures of one program on one kind of chip: memory, work, and how long the hardware needs."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence

import jax

from jaxsearch.models.decoder import Size
from jaxsearch.plan import traffic
from jaxsearch.plan.chips import GIB, Chip
from jaxsearch.plan.hlo import Program
from jaxsearch.plan.programs import Planned
from jaxsearch.plan.traffic import Collective

# Of jaxlib and libtpu, the former cannot read what the latter makes of a lookup on a sparse core
# (jaxlib 0.10.2, libtpu 0.0.52): lookups stay on the tensor core, as on chips without sparse cores.
_OPTIONS = {'xla_tpu_offload_gather_to_sparsecore': 'false'}


@dataclasses.dataclass(frozen=True)
class Figures:
  """Of one call, on one chip; bytes and seconds.

  Attributes:
    name, unit: as `Planned`.
    arguments, temporaries, results, aliased, code: of memory; results that are aliased lie where
      arguments were.
    refusal: what the compiler says of a program that it cannot fit into the chip; then
      `temporaries` is what the program would need in all.
    operations, useful: floating-point ones; useful without what is computed again.
    moved: bytes between chip and memory.
    collectives: in which it takes part.
    arriving: bytes that reach the devices of one host from others.
    whole: all-gathers of the whole embedding, or of logits.
    compile_s: seconds.
  """

  name: str
  unit: str
  arguments: float
  temporaries: float
  results: float
  aliased: float
  code: float
  operations: float
  useful: float
  moved: float
  collectives: tuple[Collective, ...] = ()
  arriving: float = 0.0
  whole: tuple[str, ...] = ()
  compile_s: float = 0.0
  refusal: str = ''

  @property
  def sent(self) -> dict[str, float]:
    """Bytes that a chip sends, by kind and axis of the mesh."""
    sent: dict[str, float] = {}
    for one in self.collectives:
      key = f'{one.kind} over {one.axes}'
      sent[key] = sent.get(key, 0.0) + one.sent
    return sent

  def times(self, chip: Chip) -> dict[str, float]:
    """Seconds that products, memory and links need at their published rates."""
    return {
      'products': self.operations / chip.flops,
      'memory': self.moved / chip.bandwidth,
      'links': sum(self.sent.values()) / chip.link,
    }

  def seconds(self, chip: Chip) -> float:
    """The roofline: the longest of `times`, as if they overlapped perfectly."""
    return max(self.times(chip).values())

  def mfu(self, chip: Chip) -> float:
    """Share of the peak that useful operations are in `seconds`: no program can reach more."""
    seconds = self.seconds(chip)
    return self.useful / chip.flops / seconds if seconds else 0.0


def compiled(planned: Planned, size: Size, seen: int) -> Figures:
  """Compiles a program for the devices of its mesh and reads the result.

  Args:
    planned: the program.
    size: of the policy.
    seen: tokens of a full row.
  """
  start = time.perf_counter()
  devices = planned.mesh.size
  work = {
    'operations': planned.operations / devices,
    'useful': planned.useful / devices,
  }
  try:
    made = planned.traced.lower().compile(compiler_options=_OPTIONS)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return _refused(planned, str(error), work, time.perf_counter() - start)
  memory, program = made.memory_analysis(), Program(made.as_text())
  found = traffic.collectives(program, planned.mesh)
  return Figures(
    planned.name,
    planned.unit,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    results=memory.output_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    **work,
    moved=traffic.memory(program, seen),
    collectives=tuple(found),
    arriving=traffic.across_hosts(found, planned.mesh),
    whole=tuple(whole_vocabulary(found, size)),
    compile_s=time.perf_counter() - start,
  )


def whole_vocabulary(found: Sequence[Collective], size: Size) -> list[str]:
  """All-gathers whose result has an axis of all the vocabulary beside another one."""
  return [
    f'{one.kind} of {list(shape)} over {one.axes}'
    for one in found
    if one.kind == 'all-gather'
    for shape in one.shapes
    if size.vocab in shape and sum(n > 1 for n in shape) > 1
  ]


def _refused(planned: Planned, error: str, work: dict[str, float], seconds: float) -> Figures:
  needed = re.search(r'\(([\d.]+)G\) exceeds', error) or re.search(r'Used ([\d.]+)G of', error)
  return Figures(
    planned.name,
    planned.unit,
    arguments=0.0,
    temporaries=float(needed[1]) * GIB if needed else 0.0,
    results=0.0,
    aliased=0.0,
    code=0.0,
    **work,
    moved=0.0,
    compile_s=seconds,
    refusal=error.strip().splitlines()[0],
  )
