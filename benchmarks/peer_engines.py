"""Our engine and other people's on our traces, by public interfaces, each in its best way.

An engine is opened with a `Job` and one of its `options`, which say what it tries in a sweep: how
many rows at a time, which cache, how many threads. `replay(scripts)` does the work of these scripts
once and tells how many tokens it sampled. All have the same architecture and weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import peer_transformers
import peer_weights
from peer_job import Job, Option, TurnByTurn, sampled

from jaxsearch.bench.traces import Script
from jaxsearch.models import sizes


class Ours:
  """`jaxsearch bench rollout` in mode resume."""

  compiles = True

  @staticmethod
  def options(job: Job) -> list[Option]:
    return [{'extend_rows': 512 // chunk, 'extend_tokens': chunk} for chunk in (64, 32)]

  def __init__(self, job: Job, option: Option):
    import jax

    from jaxsearch import config
    from jaxsearch.bench import rollout
    from jaxsearch.rollout import caches

    cache = caches.fastest(jax.default_backend(), job.dtype, 1)
    knobs = config.Rollout(
      slots=job.rows,
      context_tokens=0,
      decode_steps=64,
      cache=cache,
      block_tokens=128,
      deterministic=False,
      overlap=jax.default_backend() != 'cpu',
      **option,
    )
    self._bench = rollout.Bench(job.model, job.dtype, knobs, job.scripts)

  def replay(self, scripts: Sequence[Script]) -> int:
    self._bench.run('resume', scripts)
    return sampled(scripts)  # Which the run itself has checked.

  def close(self) -> None:
    pass


class Tunix(TurnByTurn):
  """google-tunix's own sampler; prompts go to it as text, whose words are ids."""

  compiles = True

  @staticmethod
  def options(job: Job) -> list[Option]:
    tried = [(job.rows, False), (job.rows, True), (job.fewer_rows(), True)]
    return [{'rows': rows, 'refill': refill} for rows, refill in tried]

  def __init__(self, job: Job, option: Option):
    from tunix.generate import sampler

    size = sizes.find(job.model)
    self._vocab, self._option = size.vocab, option
    made = peer_weights.tunix_model(size, peer_weights.ours(size), dtype=job.dtype)
    most = max(turn.policy for script in job.scripts for turn in script.turns)
    # Prompts are padded to a power of two.
    room = (1 << (job.longest - 1).bit_length()) + most + 16
    cache = sampler.CacheConfig(room, size.layers, size.kv_heads, size.head_size)
    self._sampler = sampler.Sampler(made, _Words(), cache)

  def _generate(self, contexts: Sequence[list[int]], steps: int) -> list[list[int]]:
    # One size of batch, and steps in multiples: every other shape compiles anew.
    short = self._option['rows'] - len(contexts)
    texts = [' '.join(map(str, context)) for context in [*contexts, *contexts[:1] * short]]
    out = self._sampler(texts, -(-steps // 16) * 16, temperature=1.0, top_p=1.0, eos_tokens=[1])
    written = [[*map(int, tokens), *[2] * steps][:steps] for tokens in out.tokens]
    return written[: len(contexts)]


class _Words:
  """A tokenizer whose words are ids."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: Sequence[int]) -> str:
    return ' '.join(map(str, ids))

  def bos_id(self) -> int:
    return 2

  def eos_id(self) -> int:
    return 1

  def pad_id(self) -> int:
    return 0


ENGINES = {
  'ours': Ours,
  'transformers': peer_transformers.Generate,
  'transformers_continuous': peer_transformers.Continuous,
  'tunix': Tunix,
}
