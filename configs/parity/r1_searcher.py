"""R1-Searcher (arXiv 2503.05592) as its code has it, in two stages, for Llama-3.1-8B-Instruct.

  jaxsearch train --config=configs/parity/r1_searcher.py           # stage 1, then stage 2
  jaxsearch train --config=configs/parity/r1_searcher.py:zero      # Qwen2.5-7B base, one stage

First the policy learns to search at all (350 questions of medium difficulty), then to answer
(8,148 harder ones); the paper's own rewards are `r1_searcher_stage1` and `r1_searcher_stage2`. One
8-GPU node in the original. Training samples from the whole distribution (the original: top-p 0.95).
"""

from jaxsearch import config

PHASES = ('stage1', 'stage2')


def get_config(phase: str = 'stage2') -> config.Config:
  c = config.Config(run_dir=f'runs/r1_searcher/{phase}')
  c.policy.dtype = 'bfloat16'
  c.protocol = config.Protocol(name='r1_searcher', form='instruct')
  c.retrieval = config.Retrieval('dense', 'indexes/wiki17', top_k=3, workers=8)
  c.eval_retrieval = config.Retrieval('dense', 'indexes/wiki17', top_k=5, workers=8)
  c.rollout = config.Rollout(
    slots=256,
    context_tokens=8192,
    policy_tokens=4608,
    turn_tokens=512,
    max_searches=8,
    extend_tokens=256,
  )
  # REINFORCE++ with the group's mean as baseline; the KL is in the reward.
  c.algo = config.Algo(
    questions_per_step=64,
    group_size=16,
    updates_per_batch=4,
    advantage='group_mean',
    whiten=True,
    kl_coef=1e-4,
    kl='k1',
    kl_place='reward',
    loss_norm='sequence',
  )
  c.optimizer = config.Optimizer(learning_rate=2e-6, b2=0.95, weight_decay=0.0)
  c.learner = config.Learner(buckets=(1024, 2048, 4096, 8192), tokens_per_microbatch=16384)
  c.questions.dev = 'data/r1_searcher/dev.jsonl'
  if phase == 'stage1':
    c.policy.path = 'checkpoints/llama-3.1-8b-instruct'
    c.questions.train = 'data/r1_searcher/stage1.jsonl'
    c.reward.name = 'r1_searcher_stage1_llama'
    c.algo.questions_per_step = 15
    c.algo.advantage, c.algo.whiten = 'group_zscore', False
    c.schedule = config.Schedule(steps=23, eval_every=10, checkpoint_every=10, export='newest')
    return c
  c.questions.train = 'data/r1_searcher/stage2.jsonl'
  c.schedule = config.Schedule(steps=127, eval_every=10, checkpoint_every=10)
  if phase == 'zero':
    c.policy.path = 'checkpoints/qwen2.5-7b-base'
    c.protocol.form = 'base'
    c.reward.name = 'r1_searcher_zero'
    c.algo.kl_coef = 0.0
  else:
    c.policy.path = 'runs/r1_searcher/stage1/policy'
    c.policy.reference = 'checkpoints/llama-3.1-8b-instruct'
    c.reward.name = 'r1_searcher_stage2_llama'
  return c
