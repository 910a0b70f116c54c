"""Other people's engines on our traces, by their public interfaces; each replays in its best way.

An engine is opened with the trace, the rows it may hold at a time and one of its `options`;
`replay(scripts)` does the work of these scripts once. All get the same architecture and weights.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

import numpy as np

from jaxsearch.bench.traces import Script
from jaxsearch.models import sizes


def weights(model: str) -> tuple[sizes.Size, dict]:
  """The random float32 parameters that `bench rollout` uses, as NumPy arrays."""
  import jax

  from jaxsearch.models import decoder

  size = sizes.find(model)
  params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), size)
  return size, jax.tree.map(np.array, params)


def ids(vocab: int, count: int, *seed: int) -> list[int]:
  return np.random.default_rng(seed).integers(3, vocab, count).tolist()


class Ours:
  """`jaxsearch bench rollout` in mode resume."""

  options = tuple(
    {
      'cache': 'blocked',
      'deterministic': False,
      'block_tokens': 512,
      'extend_rows': 512 // chunk,
      'extend_tokens': chunk,
    }
    for chunk in (64, 32)
  )

  def __init__(self, model: str, scripts: Sequence[Script], rows: int, option: dict):
    from jaxsearch import config
    from jaxsearch.bench import rollout

    knobs = config.Rollout(slots=rows, context_tokens=0, decode_steps=64, **option)
    self._bench = rollout.Bench(model, 'float32', knobs, scripts, tensor=2)

  def replay(self, scripts: Sequence[Script]) -> None:
    self._bench.run('resume', scripts)


class _TurnByTurn:
  """The loop of tool training on a batch generator: a turn for all rows, searches, the next turn.

  Every turn sends the whole context again. With `refill` a finished trajectory's place goes to the
  next one at once, otherwise when the whole batch is done.
  """

  def replay(self, scripts: Sequence[Script]) -> None:
    waiting = list(enumerate(scripts))
    rows: list[tuple[int, Script, int, list[int]]] = []
    while rows or waiting:
      if not rows or self._refill:
        while waiting and len(rows) < self._rows:
          place, script = waiting.pop(0)
          rows.append((place, script, 0, ids(self._vocab, script.prompt, script.question)))
      steps = [script.turns[turn].policy for _, script, turn, _ in rows]
      written = self._generate([context for *_, context in rows], max(steps))
      time.sleep(max(script.turns[turn].latency_s for _, script, turn, _ in rows))
      going = []
      for (place, script, turn, context), new, count in zip(rows, written, steps, strict=True):
        if turn + 1 < len(script.turns):
          seen = ids(self._vocab, script.turns[turn].observation, place, turn)
          going.append((place, script, turn + 1, context + new[:count] + seen))
      rows = going


class Transformers(_TurnByTurn):
  """Hugging Face transformers `generate`."""

  options = tuple(
    {'threads': threads, 'refill': refill} for threads in (2,) for refill in (False, True)
  )

  def __init__(self, model: str, scripts: Sequence[Script], rows: int, option: dict):
    self._model, self._vocab = llama(model, option['threads'])
    self._rows, self._refill = rows, option['refill']

  def _generate(self, contexts: Sequence[list[int]], steps: int) -> list[list[int]]:
    import torch

    width = max(map(len, contexts))
    padded = torch.zeros((len(contexts), width), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for i, context in enumerate(contexts):
      padded[i, width - len(context) :] = torch.tensor(context)
      mask[i, width - len(context) :] = 1
    with torch.inference_mode():
      out = self._model.generate(
        padded,
        attention_mask=mask,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        pad_token_id=0,
        use_cache=True,
      )
    return out[:, width:].tolist()


class TransformersContinuous:
  """Hugging Face transformers' continuous batching: every turn is a request of its own."""

  options = ({'threads': 2},)

  def __init__(self, model: str, scripts: Sequence[Script], rows: int, option: dict):
    self._model, self._vocab = llama(model, option['threads'], 'paged|sdpa')
    self._rows = rows

  def replay(self, scripts: Sequence[Script]) -> None:
    from transformers import GenerationConfig

    settings = GenerationConfig(
      do_sample=True, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0, max_new_tokens=64
    )
    manager = self._model.init_continuous_batching(generation_config=settings)
    manager.start()
    waiting, running = list(enumerate(scripts)), {}
    due: queue.PriorityQueue = queue.PriorityQueue()

    def ask(place: int, script: Script, turn: int, context: list[int]) -> None:
      name = manager.add_request(context, max_new_tokens=script.turns[turn].policy)
      running[name] = place, script, turn, context

    try:
      while waiting or running or not due.empty():
        while waiting and len(running) + due.qsize() < self._rows:
          place, script = waiting.pop(0)
          ask(place, script, 0, ids(self._vocab, script.prompt, script.question))
        while not due.empty() and due.queue[0][0] <= time.monotonic():
          ask(*due.get()[2:])
        result = manager.get_result(timeout=0.01)
        if result is None or not result.is_finished():
          continue
        place, script, turn, context = running.pop(result.request_id)
        if turn + 1 < len(script.turns):
          seen = ids(self._vocab, script.turns[turn].observation, place, turn)
          then = context + list(result.generated_tokens) + seen
          at = time.monotonic() + script.turns[turn].latency_s
          due.put((at, place, place, script, turn + 1, then))
    finally:
      manager.stop(block=True)


class Tunix(_TurnByTurn):
  """google-tunix's own sampler; prompts go to it as text, whose words are ids."""

  options = ({'refill': False}, {'refill': True})

  def __init__(self, model: str, scripts: Sequence[Script], rows: int, option: dict):
    from flax import nnx
    from tunix.generate import sampler
    from tunix.models.llama3 import model as llama3

    size, params = weights(model)
    self._vocab, self._rows, self._refill = size.vocab, rows, option['refill']
    made = llama3.Llama3(
      llama3.ModelConfig(
        num_layers=size.layers,
        vocab_size=size.vocab,
        embed_dim=size.embed,
        hidden_dim=size.hidden,
        num_heads=size.heads,
        head_dim=size.head_size,
        num_kv_heads=size.kv_heads,
        rope_theta=int(size.rope_base),
        norm_eps=size.norm_eps,
        weight_tying=True,
      ),
      rngs=nnx.Rngs(0),
    )
    longest = max(script.length for script in scripts)
    most = max(turn.policy for script in scripts for turn in script.turns)
    # Prompts are padded to a power of two.
    room = (1 << (longest - 1).bit_length()) + most + 16
    cache = sampler.CacheConfig(room, size.layers, size.kv_heads, size.head_size)
    self._sampler = sampler.Sampler(made, _Ids(), cache)

  def _generate(self, contexts: Sequence[list[int]], steps: int) -> list[list[int]]:
    # One size of batch, and steps in multiples: every other shape compiles anew.
    short = self._rows - len(contexts)
    texts = [' '.join(map(str, context)) for context in [*contexts, *contexts[:1] * short]]
    out = self._sampler(texts, -(-steps // 16) * 16, temperature=1.0, top_p=1.0, eos_tokens=[1])
    written = [[*map(int, tokens), *[2] * steps][:steps] for tokens in out.tokens]
    return written[: len(contexts)]


class _Ids:
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


def llama(model: str, threads: int, attention: str = 'sdpa'):
  """(the model in transformers with our weights, its vocabulary)."""
  import torch
  import transformers

  torch.set_num_threads(threads)
  size, params = weights(model)
  made = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=size.vocab,
      hidden_size=size.embed,
      intermediate_size=size.hidden,
      num_hidden_layers=size.layers,
      num_attention_heads=size.heads,
      num_key_value_heads=size.kv_heads,
      head_dim=size.head_size,
      rms_norm_eps=size.norm_eps,
      rope_theta=size.rope_base,
      tie_word_embeddings=size.tied_embeddings,
      max_position_embeddings=16384,
      bos_token_id=None,
      eos_token_id=None,
      attn_implementation=attention,
    )
  ).eval()
  made.load_state_dict(_named(size, params), strict=False)
  made.tie_weights()
  return made, size.vocab


def _named(size: sizes.Size, params: dict) -> dict:
  """Our arrays by the names and shapes of transformers' Llama."""
  import torch

  flat = lambda array, *shape: torch.tensor(np.ascontiguousarray(array.reshape(shape).T))
  named = {
    'model.embed_tokens.weight': torch.tensor(params['embed']),
    'model.norm.weight': torch.tensor(params['norm']),
  }
  layers, D = params['layers'], size.embed
  for i in range(size.layers):
    at = f'model.layers.{i}'
    for ours, theirs in (('query', 'q_proj'), ('key', 'k_proj'), ('value', 'v_proj')):
      kernel = layers['attention'][ours]['kernel'][i]
      named[f'{at}.self_attn.{theirs}.weight'] = flat(kernel, D, -1)
    named[f'{at}.self_attn.o_proj.weight'] = flat(layers['attention']['out']['kernel'][i], -1, D)
    for ours in ('gate', 'up', 'down'):
      kernel = layers['mlp'][ours]['kernel'][i]
      named[f'{at}.mlp.{ours}_proj.weight'] = flat(kernel, *kernel.shape)
    named[f'{at}.input_layernorm.weight'] = torch.tensor(layers['attention_norm']['scale'][i])
    named[f'{at}.post_attention_layernorm.weight'] = torch.tensor(layers['mlp_norm']['scale'][i])
  return named


ENGINES = {
  'ours': Ours,
  'transformers': Transformers,
  'transformers_continuous': TransformersContinuous,
  'tunix': Tunix,
}
