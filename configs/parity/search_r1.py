"""Search-R1 (arXiv 2503.09516) with GRPO as its v0.2 scripts have it, for a 7B Qwen2.5.

  jaxsearch train --config=configs/parity/search_r1.py

8 H100 in the original. Mended are its defects that jaxsearch/protocols/search_r1.py and
jaxsearch/rewards/em.py name; besides, groups are groups of one question (the original mixes
questions of two data sets that have the same row number) and validation is greedy.
"""

from jaxsearch import config


def get_config() -> config.Config:
  c = config.Config(run_dir='runs/search_r1')
  c.policy = config.Policy(path='checkpoints/qwen2.5-7b-base', dtype='bfloat16')
  c.questions = config.Questions('data/nq_hotpotqa/train.jsonl', 'data/nq_hotpotqa/dev.jsonl')
  c.protocol = config.Protocol(name='search_r1')
  c.retrieval = config.Retrieval('dense', 'indexes/wiki18', top_k=3, workers=8)
  c.eval_retrieval = config.Retrieval('dense', 'indexes/wiki18', top_k=3, workers=8)
  # Four searches or notices of 500 tokens each, and one generation that can only answer.
  c.rollout = config.Rollout(
    slots=256,
    context_tokens=6144,
    policy_tokens=2500,
    turn_tokens=500,
    observation_tokens=500,
    max_searches=4,
    extend_tokens=256,
  )
  c.reward.name = 'em'
  c.algo = config.Algo(
    questions_per_step=512,
    group_size=5,
    updates_per_batch=10,
    kl_coef=0.001,
    kl='k3',
    entropy_coef=0.001,
  )
  # The original counts steps, 28.5 % of 1005; here updates count.
  c.optimizer = config.Optimizer(learning_rate=1e-6, warmup_steps=2860)
  c.learner = config.Learner(buckets=(1024, 2048, 4096, 6144), tokens_per_microbatch=16384)
  c.schedule = config.Schedule(steps=1005, eval_every=50, checkpoint_every=100)
  return c
