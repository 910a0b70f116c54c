"""ReSearch (arXiv 2503.19470) as its code has it (branch re-search), for a 7B Qwen2.5.

  jaxsearch train --config=configs/parity/research.py          # base
  jaxsearch train --config=configs/parity/research.py:instruct

64 H800 in the original, about 154 steps; its scores are in the paper's table 2. What we do
differently is in the README's table.
"""

from jaxsearch import config


def get_config(form: str = 'base') -> config.Config:
  c = config.Config(run_dir=f'runs/research_{form}')
  c.policy = config.Policy(path=f'checkpoints/qwen2.5-7b-{form}', dtype='bfloat16')
  c.questions = config.Questions('data/musique/train.jsonl', 'data/musique/dev.jsonl')
  c.protocol.form = form
  # Whole documents, as many searches as fit.
  c.retrieval = config.Retrieval('dense', 'indexes/wiki18', top_k=5, workers=8)
  c.eval_retrieval = config.Retrieval('dense', 'indexes/wiki18', top_k=5, workers=8)
  c.rollout = config.Rollout(
    slots=256, context_tokens=8704, policy_tokens=8192, max_searches=64, extend_tokens=256
  )
  c.algo = config.Algo(
    questions_per_step=256, group_size=5, kl_coef=0.001, kl='k3', entropy_coef=0.001
  )
  c.optimizer = config.Optimizer(learning_rate=1e-6)
  c.learner = config.Learner(buckets=(1024, 2048, 4096, 8704), tokens_per_microbatch=17408)
  c.schedule = config.Schedule(steps=154, eval_every=10, eval_questions=100, checkpoint_every=10)
  return c
