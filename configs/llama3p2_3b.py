"""Search-R1 (arXiv 2503.09516) with GRPO on NQ and HotpotQA, Llama 3.2 3B base.

  jaxsearch train --config=configs/llama3p2_3b.py         # v6e:4x4
  jaxsearch train --config=configs/llama3p2_3b.py:h100    # 8 H100 of one machine
  jaxsearch train --config=configs/llama3p2_3b.py:h200    # one H200
  jaxsearch train --config=configs/llama3p2_3b.py:one_h100  # one H100, adapters

Of a chip, as `jaxsearch plan --model=llama3p2_3b` says, by estimates; nothing has run there:
  8 H100     26.8 of 70.8 GiB; an update of 8 rows of 6,144 tokens takes 0.20 s or more
  one H200   111.9 of 124.8 GiB; of 2 rows, 0.41 s or more
  one H100   68.2 of 70.8 GiB; of 2 rows with adapters, 0.40 s or more

ZeroSearch (arXiv 2505.04588, table 3) reports Search-R1 with this policy, trained and tested with a
web search engine: 34.21 exact match in the mean over seven benchmarks. We have not trained it.
"""

from configs import search_r1_qwen2p5_3b
from jaxsearch import config


def get_config(hardware: str = 'v6e') -> config.Config:
  c = search_r1_qwen2p5_3b.get_config(hardware)
  c.run_dir, c.policy.path = 'runs/llama3p2_3b', 'checkpoints/llama-3.2-3b-base'
  if hardware == 'v6e':
    c.mesh.tensor = c.mesh.sample_tensor = 4  # Eight key heads.
  # Four times the cache of Qwen2.5 3B, which has two.
  c.rollout.slots //= 2
  return c
