"""What is published of chips: memory and its bandwidth, 16-bit products, links between chips.

TPUs: the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of docs.cloud.google.com/tpu/docs.
GPUs: the data sheets of A100 (SXM, 80 GB), H100 (SXM) and H200 of nvidia.com, without sparsity.

`usable` is what a program may fill. Of a TPU it is what its compiler allows: it was made to compile
a program of 400 GiB for each, and its refusal (CompileTimeHbmOom, libtpu 0.0.52) names the number.
Of a GPU it is 0.95 of the memory, the most that JAX is usually told to take
(XLA_PYTHON_CLIENT_MEM_FRACTION=.95; by default it takes .75).
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, which is one device of JAX.

  Attributes:
    name: as a topology or `--chip` names it.
    kind: tpu or gpu.
    usable: bytes of memory that programs may fill.
    bandwidth: of it, bytes a second.
    flops: of bfloat16 products, a second.
    link: bytes a second that a chip sends to its neighbours along one dimension of the torus, both
      ways around; of a GPU, through its NVLinks.
    example: of a slice's name; empty for a GPU.
  """

  name: str
  kind: str
  usable: float
  bandwidth: float
  flops: float
  link: float
  example: str = ''


# What a TPU sends in all, over the dimensions of its torus. v4: 6 links of 50 GB/s (arXiv
# 2304.01433); v5p: 4,800 Gbps; v5e and v6e: half of the 400 and 800 GB/s of both ways together.
_CHIPS = (
  Chip('v4', 'tpu', 30.75 * GIB, 1.2e12, 275e12, 300e9 / 3, 'v4:2x2x2'),
  Chip('v5e', 'tpu', 15.75 * GIB, 819e9, 197e12, 200e9 / 2, 'v5e:4x4'),
  Chip('v5p', 'tpu', 95.73 * GIB, 2.765e12, 459e12, 600e9 / 3, 'v5p:2x2x2'),
  Chip('v6e', 'tpu', 31.24 * GIB, 1.638e12, 918e12, 400e9 / 2, 'v6e:4x4'),
  Chip('a100', 'gpu', 0.95 * 80e9, 2.039e12, 312e12, 300e9),
  Chip('h100', 'gpu', 0.95 * 80e9, 3.35e12, 989e12, 450e9),
  Chip('h200', 'gpu', 0.95 * 141e9, 4.8e12, 989e12, 450e9),
)
TPUS = {chip.name: chip for chip in _CHIPS if chip.kind == 'tpu'}
GPUS = {chip.name: chip for chip in _CHIPS if chip.kind == 'gpu'}
