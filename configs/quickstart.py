"""A language model learns to search on two CPU cores.

  bash launch/quickstart.sh

World, index, warm start, evaluation, training, evaluation, report. The argument after the colon is
the size (default or ci) and the run directory.
"""

from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  size, run = arguments.split(',')
  world, ci = f'{run}/world', size == 'ci'
  c = config.Config(run_dir=run)
  c.policy.path = f'{run}/warmstart/policy'
  # Small enough for unrolled layers and kept activations: twice as fast on CPU.
  c.policy.scan = c.policy.remat = False
  c.model = config.Model(
    layers=4, embed=128, heads=2, kv_heads=1, head_size=64, hidden=384, tokenizer=f'{world}/tokenizer'
  )
  c.questions = config.Questions(f'{world}/train/questions.jsonl', f'{world}/dev/questions.jsonl')
  # A model of this size follows no instructions: the prompt is the question.
  c.protocol.prompt = 'configs/prompts/question.txt'
  c.retrieval = config.Retrieval(index=f'{run}/index/train', top_k=2)
  c.eval_retrieval = config.Retrieval(index=f'{run}/index/dev', top_k=2)
  c.rollout = config.Rollout(
    slots=48,
    context_tokens=704,
    policy_tokens=320,
    max_searches=5,
    decode_steps=12,
    extend_rows=4,
    extend_tokens=64,
  )
  c.algo = config.Algo(questions_per_step=16, group_size=8)
  c.optimizer = config.Optimizer(learning_rate=3e-4, weight_decay=0.0, b2=0.98)
  c.learner = config.Learner(buckets=(256, 384, 512, 704), tokens_per_microbatch=8192)
  c.schedule = config.Schedule(steps=3 if ci else 24, eval_every=6, checkpoint_every=6)
  c.warmstart = config.Warmstart(
    demonstrations=f'{world}/train/demonstrations.jsonl',
    steps=20 if ci else 800,
    tokens_per_step=2304,
    observation_weight=0.3,
    optimizer=config.Optimizer(
      learning_rate=3e-3, warmup_steps=50, decay_steps=750, b2=0.98, weight_decay=0.01
    ),
  )
  return c
