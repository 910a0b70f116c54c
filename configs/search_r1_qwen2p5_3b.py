"""Search-R1 (arXiv 2503.09516) with GRPO on NQ and HotpotQA, Qwen2.5 3B base.

  jaxsearch train --config=configs/search_r1_qwen2p5_3b.py         # v6e:4x4
  jaxsearch train --config=configs/search_r1_qwen2p5_3b.py:h100    # 8 H100 of one machine
  jaxsearch train --config=configs/search_r1_qwen2p5_3b.py:h200    # one H200
  jaxsearch train --config=configs/search_r1_qwen2p5_3b.py:one_h100  # one H100, adapters

Of a chip, as `jaxsearch plan --model=qwen2p5_3b` says; GPUs by estimates, nothing has run there:
  v6e:4x4    18.1 of 31.2 GiB; an update of 8 rows of 6,144 tokens takes 0.16 s or more
  8 H100     22.1 of 70.8 GiB; of 8 rows, 0.19 s or more
  one H200   93.4 of 124.8 GiB; of 2 rows, 0.38 s or more
  one H100   51.7 of 70.8 GiB; of 2 rows with adapters, 0.37 s or more

What the paper reports of GRPO with this policy, 8 H100, exact match: NQ .421, TriviaQA .583, PopQA
.413, HotpotQA .297, 2WikiMultiHopQA .274, MuSiQue .066, Bamboogle .128, mean .312 (its table that
compares PPO with GRPO). We have not trained it.
"""

from configs import research_qwen2p5_7b
from configs.parity import search_r1
from jaxsearch import config


def get_config(hardware: str = 'v6e') -> config.Config:
  c = search_r1.get_config()
  c.run_dir, c.policy.path = 'runs/search_r1_qwen2p5_3b', 'checkpoints/qwen2.5-3b-base'
  on = {'v6e': _v6e, 'h100': research_qwen2p5_7b.on_gpus, 'h200': _h200, 'one_h100': _one_h100}
  on[hardware](c)
  return c


def _v6e(c: config.Config) -> None:
  research_qwen2p5_7b.on_tpus(c)
  # Two key heads: training splits them over two chips, and so does sampling.
  c.mesh.tensor = c.mesh.sample_tensor = 2
  c.rollout.slots, c.rollout.pages = 128, 4096
  c.learner.logprob_chunk = 2048


def _h200(c: config.Config) -> None:
  research_qwen2p5_7b.on_gpus(c)
  c.mesh.sample_tensor = 1
  c.rollout.slots = 128
  c.learner.tokens_per_microbatch = 2 * c.learner.buckets[-1]


def _one_h100(c: config.Config) -> None:
  _h200(c)
  c.policy.lora_rank = 16
  # Adapters take about ten times the rate of a whole policy (thinkingmachines.ai/blog/lora).
  c.optimizer.learning_rate = 1e-5
