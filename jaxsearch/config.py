"""Every knob of a run, with its unit or reason; `validation` refuses what cannot work.

A configuration file's `get_config()` returns a `Config` and states only its differences from
these defaults. No field is derived or filled in later, and a test checks that each is read.
Annotations stay real types (no postponed evaluation): the command line parses overrides by them.
"""

import dataclasses
import importlib.util
import os
import re
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import field
from typing import Any

from jaxsearch import plugins
from jaxsearch.types import UserError


@dataclasses.dataclass
class Policy:
  path: str = ''  # Folder to start from: of `warmstart`, `import` or Hugging Face, with tokenizer.
  reference: str = ''  # The same, of the frozen KL reference; empty: the starting policy.
  dtype: str = 'float32'  # Of products and of frozen weights; what is trained stays float32.
  scan: bool = True  # One compiled layer in training; False: unrolled, twice as fast on CPU.
  attention: str = 'xla'  # Of the learner, a file in models/attentions/: xla, cudnn or splash.
  remat: str = 'full'  # Function in models/remat: what the backward pass computes again.
  lora_rank: int = 0  # Of adapters that are trained in place of the policy; 0: all is trained.
  lora_alpha: float = 32.0  # Adapters are scaled by lora_alpha / lora_rank.


@dataclasses.dataclass
class Mesh:
  """Training mesh; at most one size may be -1, which takes the devices that are left."""

  data: int = -1  # Batch is split, parameters are copied.
  fsdp: int = 1  # Batch and parameters are split.
  tensor: int = 1  # Heads, hidden and vocabulary are split.
  sample_tensor: int = 1  # Devices of this host that share one copy of the sampling weights.


@dataclasses.dataclass
class Questions:
  train: str = ''  # JSON lines: id, question, golden_answers, metadata.
  dev: str = ''  # Chooses the checkpoint. Never the test file.
  source: str = 'shuffled'  # File in sources/: which training questions come next.


@dataclasses.dataclass
class Protocol:
  name: str = 'research'  # File in protocols/.
  form: str = 'base'  # base: one plain string; instruct: the tokenizer's chat template.
  prompt: str = ''  # Text file that holds the prompt, with {question}; empty: the protocol's own.


@dataclasses.dataclass
class Retrieval:
  backend: str = 'bm25'  # File in retrieval/backends/.
  index: str = ''  # Folder made by `jaxsearch index`.
  encoder: str = ''  # Hugging Face folder that encodes queries; empty: the one the index names.
  encoder_dtype: str = 'float32'  # Of models' products; bfloat16 is as good, faster with AMX.
  probes: int = 0  # Lists or candidates that a dense search visits; 0: as the index was tuned.
  top_k: int = 3  # Documents per query.
  workers: int = 1  # Processes that search.
  encoders: int = 1  # Processes that turn queries into vectors, or rerank; where there is need.
  cores: str = ''  # Of this host, such as 8-15,20: one for each worker, the others for encoders.
  worker_gib: float = 0.0  # Memory that a process may allocate, mapped files aside; 0: any.
  deadline_s: float = 20.0  # From submission to answer, retries included.
  retries: int = 2  # Further tries after an infrastructure failure, within the deadline.
  batch: int = 64  # Most requests that a worker takes at once; slots of engine_simulator.
  window_ms: float = 1.0  # That a request waits for others to share its batch.
  hedge: float = 0.05  # Share of searches, the slowest, asked of a second idle worker too.
  cache_queries: int = 20_000  # Answers kept in memory; 0: none.
  cache: str = ''  # File of answers that outlives the run; empty: none.
  candidates: int = 20  # Documents per query that are fused (hybrid) or reranked.
  reranker: str = ''  # Hugging Face folder of a cross-encoder; empty: no reranking.
  noise_start: float = 0.0  # Simulated retrievers: share of misleading answers at the first step,
  noise_end: float = 0.0  # and at the last; between them it rises ever faster (ZeroSearch).
  url: str = ''  # Of http: servers, ',' between replicas, ';' between shards. Or a simulator's /v1.
  dialect: str = 'search_r1'  # File in retrieval/dialects/: how backend http asks its servers.
  model: str = ''  # Name by which the endpoint knows the simulator.
  simulator: str = ''  # Policy folder of engine_simulator (`warmstart --task=simulator`).
  mode: str = 'prompted'  # Of a simulator: prompted or tuned.
  prompt: str = ''  # Text file that asks a simulator, with {query}, {kind}; empty: its own wording.
  questions: str = ''  # Question file whose answers a simulator may know.
  answer_tokens: int = 600  # That a simulator may write for a query (ZeroSearch's limit).
  context_tokens: int = 1024  # Of engine_simulator: prompt and answer together.


@dataclasses.dataclass
class Rollout:
  slots: int = 64  # Rows in flight per replica; the batch of the decode program.
  context_tokens: int = 1024  # Prompt, policy and observation tokens of a row together.
  policy_tokens: int = 512  # Sampled tokens of a trajectory.
  turn_tokens: int = 0  # Sampled tokens between two pauses; 0: no such limit.
  observation_tokens: int = 0  # Of one search: fewer documents, then a shorter one; 0: no limit.
  max_searches: int = 8  # And notices. One more ends the trajectory with status turn_cap.
  decode_steps: int = 16  # Tokens per row that one decode program samples before the host looks.
  extend_rows: int = 8  # Rows that one extend program appends to.
  extend_tokens: int = 64  # Tokens per row that one extend program appends.
  cache: str = 'dense'  # File in rollout/caches/.
  cache_dtype: str = ''  # Of keys and values: bfloat16, int8; empty: policy.dtype.
  block_tokens: int = 256  # Of a block or page of the cache, where it has them.
  pages: int = 0  # Of a paged cache, per replica; 0: enough for full rows in all slots.
  deterministic: bool = True  # No bit depends on other rows; False: shapes that follow the load.
  overlap: bool = False  # Decode the next chunk while the host reads the last; for accelerators.
  leaves: int = 1  # Rollouts of a question that begin as one; every search halves them.
  temperature: float = 1.0  # Of training rollouts; learner and reference use it too.
  attempts: int = 3  # Times a trajectory is started before its infrastructure failure stands.


@dataclasses.dataclass
class Reward:
  name: str = 'research'  # File in rewards/.


@dataclasses.dataclass
class Algo:
  questions_per_step: int = 16  # Of all hosts together.
  group_size: int = 8  # Rollouts of each question.
  rounds: int = 1  # Of questions, at most, until questions_per_step of them have unequal rewards.
  updates_per_batch: int = 1  # Optimiser steps of each batch of rollouts, cut by questions.
  advantage: str = 'group_zscore'  # Function in algo/advantages.py.
  whiten: bool = False  # Advantages to mean 0 and spread 1 over all trained tokens (REINFORCE++).
  selector: str = 'every'  # Function in algo/selectors.py: which rollouts are trained.
  policy_loss: str = 'clipped_ratio'  # Function in algo/losses.py.
  old_logprobs: str = 'sampler'  # Of the ratio: as drawn; learner: made before the first update.
  importance_cap: float = 0.0  # With 'learner': weigh by learner / sampler, at most this; 0: not.
  clip_low: float = 0.2  # The ratio is clipped to [1 - clip_low, 1 + clip_high].
  clip_high: float = 0.2
  kl_coef: float = 0.0  # Weight of the KL to the reference; 0 drops the reference.
  kl: str = 'k3'  # Function in algo/kl.py.
  kl_place: str = 'loss'  # loss: a term of it; reward: taken off each token's reward.
  entropy_coef: float = 0.0  # Weight of the entropy bonus.
  terms: str = ''  # Further terms of the loss, functions in algo/terms.py: 'name=0.1,other=-2'.
  loss_norm: str = 'token'  # token, sequence or constant: what the policy loss is divided by.
  untrained_span: str = ''  # Spans of this name, as the protocol calls them, are not trained.
  loss_tokens: str = 'policy'  # policy: what was sampled; all: observations too (an ablation).


@dataclasses.dataclass
class Optimizer:
  learning_rate: float = 1e-6  # Peak, constant after the warm-up.
  warmup_steps: int = 0  # Linear from 0.
  decay_steps: int = 0  # Cosine to a tenth of the peak over this many steps; 0: constant.
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01  # Decoupled; not on norms and biases.
  grad_clip: float = 1.0  # Global norm.
  name: str = 'adamw'  # A function of algo/rules.


@dataclasses.dataclass
class Learner:
  buckets: tuple[int, ...] = (256, 512, 1024)  # Padded lengths; the last holds any context.
  tokens_per_microbatch: int = 16384  # Of all devices: rows = tokens // bucket, at least one each.
  pack: int = 1  # Contexts, at most, that share a padded row; they see nothing of each other.
  logprob_chunk: int = 1024  # Tokens whose vocabulary logits exist at a time.
  moments_on_host: bool = False  # But while they are updated; saves 8 bytes a parameter elsewhere.
  reference_on_host: bool = False  # But while it is asked; saves its size, in policy.dtype.


@dataclasses.dataclass
class Schedule:
  steps: int = 100  # Batches of rollouts; training ends after this many.
  generated_tokens: int = 0  # Or once this many were sampled, whichever comes first; 0: no limit.
  eval_every: int = 10  # Steps between validations on dev; also before the first step.
  eval_questions: int = 0  # Dev questions used, the first ones; 0: all.
  checkpoint_every: int = 10  # Steps between checkpoints; also after the last step.
  checkpoints_kept: int = 2  # Newest ones; the best on dev is kept besides.
  export: str = 'best'  # Step whose policy is exported at the end: best on dev, or newest.
  update_limit_s: float = 1800.0  # An update of several hosts that takes longer hangs: it is ended.
  infra_limit: float = 0.05  # Stop when more than this share of a step's rollouts is lost.


@dataclasses.dataclass
class Warmstart:
  """Supervised training on demonstrations, before reinforcement learning."""

  demonstrations: str = ''  # JSON lines: id, question, golden_answers, steps.
  records: str = ''  # JSON lines by `collect`, for --task=simulator in place of demonstrations.
  policy: str = ''  # Policy folder to go on from; empty: a new policy of the size in `model`.
  steps: int = 1000
  tokens_per_step: int = 8192  # Padded tokens of an update: rows = tokens // bucket.
  observation_weight: float = 0.0  # Loss weight of observation ids; above 0 teaches copying faster.
  optimizer: Optimizer = field(default_factory=Optimizer)


@dataclasses.dataclass
class Model:
  """Size of a policy that `warmstart` makes from nothing."""

  layers: int = 4
  embed: int = 128
  heads: int = 4
  kv_heads: int = 2
  head_size: int = 32
  hidden: int = 384
  rope_base: float = 10000.0
  norm_eps: float = 1e-6
  qk_norm: bool = False  # Qwen3.
  attention_bias: bool = False  # Qwen2.
  tied_embeddings: bool = True
  copying_heads: bool = False  # Start with their outline: models/copying.
  tokenizer: str = ''  # Hugging Face tokenizer folder.


@dataclasses.dataclass
class Config:
  run_dir: str = ''  # Everything a run writes goes here.
  seed: int = 0
  policy: Policy = field(default_factory=Policy)
  model: Model = field(default_factory=Model)
  mesh: Mesh = field(default_factory=Mesh)
  questions: Questions = field(default_factory=Questions)
  protocol: Protocol = field(default_factory=Protocol)
  retrieval: Retrieval = field(default_factory=Retrieval)
  eval_retrieval: Retrieval = field(default_factory=Retrieval)
  rollout: Rollout = field(default_factory=Rollout)
  reward: Reward = field(default_factory=Reward)
  algo: Algo = field(default_factory=Algo)
  optimizer: Optimizer = field(default_factory=Optimizer)
  learner: Learner = field(default_factory=Learner)
  schedule: Schedule = field(default_factory=Schedule)
  warmstart: Warmstart = field(default_factory=Warmstart)


def read(path: str) -> Config:
  """Runs `get_config()` of a configuration file.

  The working folder can be imported from meanwhile, so that one file may start from another:
  `from configs import quickstart`.

  Args:
    path: the file; after a colon, what is passed to `get_config`.

  Raises:
    UserError: there is no such file, or it fails; names the line.
  """
  file, colon, argument = path.partition(':')
  made = _run(file, lambda module: module.get_config(*([argument] if colon else [])))
  if not isinstance(made, Config):
    raise UserError(
      f'get_config() of {file} returned a {type(made).__name__}; it must return a '
      'jaxsearch.config.Config.'
    )
  return made


def phases(path: str) -> list[str]:
  """The configurations of a recipe, in order, as `read` takes them.

  A file that defines `PHASES = ('a', 'b')` stands for FILE:a and then FILE:b, unless `path` names
  one of them; any other file stands for itself.

  Raises:
    UserError: as `read`.
  """
  file, colon, _ = path.partition(':')
  names = () if colon else _run(file, lambda module: getattr(module, 'PHASES', ()))
  if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
    raise UserError(f"PHASES of {file} is {names!r}; allowed: names, such as ('first', 'second').")
  return [f'{file}:{name}' for name in names] or [path]


def _run(file: str, use: Callable[[types.ModuleType], Any]) -> Any:
  if not os.path.isfile(file):
    raise UserError(f'--config is {file!r}, but that is not a file; give an existing one.')
  spec = importlib.util.spec_from_file_location('configuration', file)
  module = importlib.util.module_from_spec(spec)
  sys.path.insert(0, os.getcwd())
  try:
    spec.loader.exec_module(module)
    return use(module)
  except Exception as error:
    raise UserError(_failure(file, error)) from error
  finally:
    sys.path.remove(os.getcwd())


def _failure(file: str, error: Exception) -> str:
  frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(file)]
  line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
  where = f'{file}, line {line}' if line else file
  unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
  hint = plugins.nearest(unknown.group(1), _names(Config())) if unknown else ''
  return f'{where} failed: {type(error).__name__}: {error}.{hint}'


def _names(section: object) -> list[str]:
  names = []
  for name, value in vars(section).items():
    names += [name, *(_names(value) if dataclasses.is_dataclass(value) else [])]
  return names
