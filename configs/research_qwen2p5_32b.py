"""ReSearch (arXiv 2503.19470) on MuSiQue, Qwen2.5 32B base.

  jaxsearch train --config=configs/research_qwen2p5_32b.py         # v5p:4x4x4
  jaxsearch train --config=configs/research_qwen2p5_32b.py:h200    # 8 H200 of one machine

Of a chip, as `jaxsearch plan --model=qwen2p5_32b` says; GPUs by estimates, nothing has run there:
  v5p:4x4x4  83.6 of 95.7 GiB; an update of 32 rows of 8,704 tokens takes 2.58 s or more
  8 H200     110.9 of 124.8 GiB; of 8 rows, 2.50 s or more

What the paper reports of this recipe, 64 H800, exact match / judged by a model: HotpotQA
42.77 / 64.27, 2WikiMultiHopQA 38.52 / 45.59, MuSiQue 26.40 / 37.57, Bamboogle 54.40 / 66.40
(table 2). We have not trained it.
"""

from configs import research_qwen2p5_7b
from configs.parity import research
from jaxsearch import config


def get_config(hardware: str = 'v5p') -> config.Config:
  c = research.get_config('base')
  c.run_dir, c.policy.path = 'runs/research_qwen2p5_32b', 'checkpoints/qwen2.5-32b-base'
  {'v5p': _v5p, 'h200': _h200}[hardware](c)
  return c


def _v5p(c: config.Config) -> None:
  research_qwen2p5_7b.on_tpus(c)
  # All 1,280 rollouts of a step at once, on sixteen hosts.
  c.rollout.slots = 80
  c.learner.tokens_per_microbatch = 32 * c.learner.buckets[-1]


def _h200(c: config.Config) -> None:
  research_qwen2p5_7b.on_gpus(c)
  c.mesh.sample_tensor = 8
  c.rollout.slots = 64
