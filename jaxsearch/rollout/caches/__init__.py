"""Key/value caches, a file each: `rollout.cache` names one.

A file defines `init(size, rollout, replicas, time, dtype)`, a pytree of arrays, and
`Layers(cache)`, a program's view of it with `decode` and `extend`, attention that writes as it
reads. The first axis of every array is the slot, or with `PAGED` the page; `HEADS` is the axis of
key/value heads; with `PACKED` the policy's matrices are those of models/packed. What lies at or
beyond a row's length is finite and never seen.
"""

# The cache that is read fastest, of each kind of device (`jax.default_backend()`).
FASTEST = {'cpu': 'native', 'gpu': 'cudnn', 'tpu': 'ragged'}
