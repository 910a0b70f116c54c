"""The recipe of ReSearch (arXiv 2503.19470) on MuSiQue, Qwen3 8B base.

  jaxsearch train --config=configs/qwen3_8b.py         # v5p:2x2x2
  jaxsearch train --config=configs/qwen3_8b.py:v6e     # v6e:4x4
  jaxsearch train --config=configs/qwen3_8b.py:h100    # 8 H100 of one machine

Of a chip, as `jaxsearch plan --model=qwen3_8b` says, by estimates; nothing has run there:
  8 H100     55.0 of 70.8 GiB; an update of 8 rows of 8,704 tokens takes 0.68 s or more

Nobody has published scores of this recipe with this policy that we know of. Of another one,
self-play search (SSP), with Qwen3 8B: from 52.5 to 56.3 in the mean over subsets of seven
benchmarks, judged by a model. We have not trained it.
"""

from configs import research_qwen2p5_7b
from jaxsearch import config


def get_config(hardware: str = 'v5p') -> config.Config:
  c = research_qwen2p5_7b.get_config(hardware)
  c.run_dir, c.policy.path = 'runs/qwen3_8b', 'checkpoints/qwen3-8b-base'
  # Eight key heads where Qwen2.5 7B has four: a token takes two and a half times the cache.
  c.rollout.slots //= 2
  return c
