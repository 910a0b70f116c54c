"""ReSearch (arXiv 2503.19470) on MuSiQue, Qwen2.5 7B base.

  jaxsearch train --config=configs/research_qwen2p5_7b.py         # v5p:2x2x2
  jaxsearch train --config=configs/research_qwen2p5_7b.py:v6e     # v6e:4x4
  jaxsearch train --config=configs/research_qwen2p5_7b.py:h100    # 8 H100 of one machine

Of a chip, as `jaxsearch plan --model=qwen2p5_7b` says; GPUs by estimates, nothing has run there:
  v5p:2x2x2  64.1 of 95.7 GiB; an update of 8 rows of 8,704 tokens takes 1.20 s or more
  v6e:4x4    23.4 of 31.2 GiB; of 4 rows, 0.15 s or more
  8 H100     48.4 of 70.8 GiB; of 8 rows, 0.59 s or more

What the paper reports of this recipe, 64 H800, exact match / judged by a model: HotpotQA
40.57 / 60.26, 2WikiMultiHopQA 44.67 / 50.06, MuSiQue 21.68 / 32.19, Bamboogle 43.20 / 54.40
(table 2). We have not trained it.
"""

from configs.parity import research
from jaxsearch import config


def get_config(hardware: str = 'v5p') -> config.Config:
  c = research.get_config('base')
  c.run_dir = 'runs/research_qwen2p5_7b'
  {'v5p': on_tpus, 'v6e': _v6e, 'h100': on_gpus}[hardware](c)
  return c


def on_tpus(c: config.Config) -> None:
  """Four chips a host, which share heads, vocabulary and rows."""
  c.mesh = config.Mesh(data=1, fsdp=-1, tensor=4, sample_tensor=4)
  c.policy.attention, c.rollout.cache = 'splash', 'ragged'
  # A search takes as long as a hundred steps of decode: rows that wait hold pages, no lanes.
  c.rollout.deterministic, c.rollout.overlap = False, True
  c.rollout.block_tokens = 128
  c.rollout.extend_rows = 16
  # Weights are gathered once for more tokens, and the output head for each chunk.
  c.learner.tokens_per_microbatch = 8 * c.learner.buckets[-1]
  c.learner.logprob_chunk = 4096


def on_gpus(c: config.Config) -> None:
  """Eight of one machine, by twos while sampling."""
  c.mesh = config.Mesh(data=1, fsdp=-1, sample_tensor=2)
  c.policy.attention = c.rollout.cache = 'cudnn'
  c.rollout.deterministic, c.rollout.overlap = False, True
  c.rollout.slots = 64
  c.learner.tokens_per_microbatch = 8 * c.learner.buckets[-1]


def _v6e(c: config.Config) -> None:
  on_tpus(c)
  # A third of v5p's memory: pages for rows as long as they become, not for the longest ones.
  c.rollout.slots, c.rollout.pages = 128, 4096
  c.learner.tokens_per_microbatch = 4 * c.learner.buckets[-1]
  c.learner.logprob_chunk = 2048
