"""Memory of the log-probabilities of given tokens, forward and backward, as compilers plan it.

  python benchmarks/logprob_memory.py                     # for this machine's CPU, float32
  python benchmarks/logprob_memory.py --topology=v6e:1x1  # for a TPU, bfloat16; none is needed

A Markdown table of temporaries by batch, length and chunk, at the vocabulary of Qwen2.5 3B: what
`algo/logprobs.py` takes beside its arguments (hidden states and output head) and its results (their
gradients). Nothing runs.
"""

import argparse
import os

_V, _D = 151_936, 2_048
_SHAPES = [(1, 2048), (1, 8192), (4, 8192), (16, 8192)]
_CHUNKS = [256, 1024, 4096]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='', help='one chip, as v6e:1x1; empty: this CPU')
  topology = parser.parse_args().topology
  os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax
  import jax.numpy as jnp

  from jaxsearch.algo import logprobs
  from jaxsearch.plan import slices

  device = slices.tpus(topology).devices[0] if topology else jax.devices()[0]
  dtype = jnp.bfloat16 if topology else jnp.float32
  at = jax.sharding.SingleDeviceSharding(device)

  def temporaries(batch, length, chunk):
    def loss(x_BTD, w_VD, tokens_BT):
      options = {'temperature': 1.0, 'chunk': chunk}
      found, entropies = logprobs.token_logprobs(x_BTD, w_VD, tokens_BT, **options)
      return found.sum() + entropies.sum()

    shapes = [((batch, length, _D), dtype), ((_V, _D), jnp.float32), ((batch, length), jnp.int32)]
    arrays = [jax.ShapeDtypeStruct(*shape, sharding=at) for shape in shapes]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  print('| batch | length | chunk | temporaries | logits of all tokens, float32 |')
  print('|---|---|---|---|---|')
  for batch, length in _SHAPES:
    for chunk in _CHUNKS:
      found, whole = temporaries(batch, length, chunk) / 2**30, batch * length * _V * 4 / 2**30
      print(f'| {batch} | {length:,} | {chunk:,} | {found:.2f} GiB | {whole:.1f} GiB |', flush=True)


if __name__ == '__main__':
  main()
