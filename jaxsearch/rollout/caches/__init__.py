"""Key/value caches, a file each: `rollout.cache` names one.

A file defines `init(size, rollout, replicas, time, dtype)`, a pytree of arrays, and
`Layers(cache)`, a program's view of it with `decode` and `extend`, attention that writes as it
reads. The first axis of every array is the slot, or with `PAGED` the page; `HEADS` is the axis of
key/value heads; with `PACKED` the policy's matrices are those of models/packed. What lies at or
beyond a row's length is finite and never seen.
"""

_FASTEST = {'cpu': 'native', 'gpu': 'cudnn', 'tpu': 'ragged'}


def fastest(platform: str, dtype: str, tensor: int) -> str:
  """The cache that is read fastest by devices of this platform, with these options."""
  name = _FASTEST[platform]
  return 'blocked' if name == 'native' and (dtype != 'float32' or tensor > 1) else name
