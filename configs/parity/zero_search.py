"""ZeroSearch (arXiv 2505.04588) with REINFORCE as its code has it, for a 3B Qwen2.5.

  jaxsearch train --config=configs/parity/zero_search.py

The retriever of training is a language model behind an OpenAI-compatible endpoint, that of
validation a real index. 4 H20 for each of the two in the original. Mended: every request carries
its own question; the KL is added to the loss (the original subtracts it); the answer is read from
the response alone. Its learning rate rises for 95 % of the steps, as here.
"""

from jaxsearch import config


def get_config() -> config.Config:
  c = config.Config(run_dir='runs/zero_search')
  c.policy = config.Policy(path='checkpoints/qwen2.5-3b-base', dtype='bfloat16')
  c.questions = config.Questions('data/nq_hotpotqa/train.jsonl', 'data/nq_hotpotqa/dev.jsonl')
  c.protocol = config.Protocol(name='search_r1')
  c.retrieval = config.Retrieval(
    backend='simulator',
    url='http://localhost:6001/v1',
    model='simulator',
    mode='tuned',
    questions='data/nq_hotpotqa/train.jsonl',
    noise_start=0.0,
    noise_end=0.5,
    top_k=5,
    deadline_s=120.0,
  )
  c.eval_retrieval = config.Retrieval('dense', 'indexes/wiki18', top_k=5, workers=8)
  c.rollout = config.Rollout(
    slots=256,
    context_tokens=8192,
    policy_tokens=3000,
    turn_tokens=500,
    observation_tokens=2048,
    max_searches=5,
    extend_tokens=256,
  )
  c.reward.name = 'f1'
  c.algo = config.Algo(
    questions_per_step=64,
    group_size=5,
    advantage='raw_reward',
    kl_coef=0.001,
    kl='k3',
    entropy_coef=0.001,
  )
  c.optimizer = config.Optimizer(learning_rate=1e-6, warmup_steps=193)
  c.learner = config.Learner(buckets=(1024, 2048, 4096, 8192), tokens_per_microbatch=16384)
  c.schedule = config.Schedule(steps=203, eval_every=50, checkpoint_every=50)
  return c
