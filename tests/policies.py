"""Toy policies for the tests of the rollout, real decoders all of them.

`random_policy` has random weights and a vocabulary of which every eighth token is a whole search,
so that it searches without having learnt anything. `scripted_policy` has weights such that it
writes given scripts at temperature 0, whatever it is shown in between: its attention finds the
furthest piece of a script in the context, and its output names the piece that follows.
"""

import dataclasses
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch import config, sharding
from jaxsearch.models import decoder
from jaxsearch.retrieval.indexing import build
from jaxsearch.rollout.actor import Actor
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import Question, Task

WORDS = (
  *('amber', 'birch', 'cedar', 'dune', 'ember', 'fjord'),
  *('grove', 'heath', 'islet', 'juniper', 'kelp', 'lagoon'),
)
TAGS = ['<search> the </search> <result> near </result> <answer> \\boxed{ }'] * 5
ROLLOUT = {
  'slots': 8,
  'context_tokens': 96,
  'policy_tokens': 40,
  'max_searches': 3,
  'decode_steps': 7,
  'extend_rows': 2,
  'extend_tokens': 16,
}
EOS = None  # In a script: the end-of-text token.


def make_tokenizer(folder, pieces=()):
  """Bytes and a few merges, and behind them one more id for each of `pieces`, whatever its bytes.

  `encode` never makes the ids of pieces: only a policy can write them.
  """
  tokenizer_lib.train(TAGS, 275, folder)
  tokenizer = tokenizer_lib.load(folder)
  return dataclasses.replace(tokenizer, token_bytes=tokenizer.token_bytes + tuple(pieces))


def build_index(folder, extra=()):
  """A BM25 index with one short document per word, and those of `extra`: (title, text)."""
  folder = pathlib.Path(folder)
  documents = [(a, f'near {b}') for a, b in zip(WORDS, WORDS[1:] + WORDS[:1])]
  with (folder / 'corpus.jsonl').open('w') as file:
    for i, (title, text) in enumerate([*documents, *extra]):
      file.write(json.dumps({'id': f'd{i}', 'contents': f'{title}\n{text}'}) + '\n')
  build.build(str(folder / 'corpus.jsonl'), str(folder / 'index'))
  return folder / 'index'


def random_policy(folder, **options):
  """(tokenizer, size, params); the model has more ids than the tokenizer, as Qwen's do."""
  tokenizer = make_tokenizer(folder, [f'<search> {w} </search>\n'.encode() for w in WORDS * 3])
  size = decoder.Size(
    vocab=330, layers=2, embed=32, heads=4, kv_heads=2, head_size=8, hidden=48, qk_norm=True
  )
  size = dataclasses.replace(size, **options)
  return tokenizer, size, decoder.init(jax.random.key(3), size)


def scripted_policy(folder, scripts):
  """(tokenizer, size, params) of a policy that follows `scripts` at temperature 0.

  Args:
    scripts: from a one-byte marker, which stands in the question, to the pieces that the policy
      writes: each piece becomes one token. The last piece repeats for ever, unless it is EOS.
  """
  pieces = [p for script in scripts.values() for p in script if p is not EOS]
  tokenizer = make_tokenizer(folder, pieces)
  eos, fresh = tokenizer.eos_ids[0], itertools.count(tokenizer.vocab_size - len(pieces))
  states = []  # (id, place in its script, id that follows)
  for marker, script in scripts.items():
    (at,) = tokenizer.encode(marker)
    ids = [eos if piece is EOS else next(fresh) for piece in script]
    chain = zip(itertools.count(1), [at, *ids], [*ids, ids[-1]])
    states += [(at, place, after) for place, at, after in chain if at != eos]
  return tokenizer, *_follow(states, tokenizer.vocab_size)


def _follow(states, vocab):
  """A one-layer decoder of one head and one-hot embeddings whose next id follows from `states`."""
  H = 2 * -(-max(len(states), 4) // 2)
  size = decoder.Size(
    vocab=vocab, layers=1, embed=vocab, heads=1, kv_heads=1, head_size=H, hidden=4, rope_base=1e30
  )
  params = jax.tree.map(lambda p: np.zeros_like(p), decoder.init(jax.random.key(0), size))
  params['embed'] = np.eye(vocab, dtype=np.float32)
  params['norm'] += 1
  layer = params['layers']
  layer['attention_norm']['scale'] += 1
  # With this base the last pair of a head does not turn: it compares contents, not distances.
  still = H // 2 - 1
  layer['attention']['query']['kernel'][0, :, 0, still] = 1
  for state, (at, place, after) in enumerate(states):
    layer['attention']['key']['kernel'][0, at, 0, still] = place
    layer['attention']['value']['kernel'][0, at, 0, state] = 1
    layer['attention']['out']['kernel'][0, 0, state, after] = 1
  return size, jax.tree.map(jnp.asarray, params)


def make_actor(
  policy,
  folder,
  *,
  seed=0,
  training_mesh=None,
  sample_tensor=1,
  dtype='float32',
  protocol='research',
  **rollout,
):
  """The product's own actor with the policy's weights, compiled; prompts are short."""
  tokenizer, size, params = policy
  prompt = pathlib.Path(folder) / 'prompt.txt'
  prompt.write_text('Q {question}\n')
  settings = config.Config(seed=seed)
  settings.protocol.name, settings.protocol.prompt = protocol, str(prompt)
  settings.policy.dtype = dtype
  settings.mesh.sample_tensor = sample_tensor
  settings.rollout = config.Rollout(**{**ROLLOUT, **rollout})
  actor = Actor(settings, size, tokenizer, training_mesh or sharding.make_mesh(config.Mesh()))
  actor.load(params)
  actor.warmup()
  return actor


def make_tasks(texts, samples=1, step=0):
  """`samples` tasks per question text, those of a question next to each other."""
  return [
    Task(Question(f'q{i}', text, ('birch',)), i, sample, step)
    for i, text in enumerate(texts)
    for sample in range(samples)
  ]


def bits(trajectories):
  """Trajectory name -> everything about it that must not depend on luck."""
  found = {}
  for t in trajectories:
    (context,) = t.contexts
    turns = [(turn.queries, turn.documents, turn.shown, turn.outcome) for turn in context.turns]
    kinds = [(s.kind, len(s.ids)) for s in context.segments]
    content = context.ids.tobytes(), context.logprobs.tobytes()
    found[t.task.name] = (t.status, t.attempt, kinds, turns, context.spans, *content)
  return found
