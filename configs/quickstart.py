"""A language model learns to search on two CPU cores.

  bash launch/quickstart.sh

World, index, warm start, evaluation, training, evaluation, report; README.md has the measured time
and scores. The argument after the colon is the size, the run directory and, for what is trained
beside a finished quick start, a run directory of its own. Sizes are those of the world: default;
ci, far smaller; hard and hard-ci, on which `jaxsearch bench recipes` compares methods.
"""

from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart') -> config.Config:
  size, run, out = (*arguments.split(','), '')[:3]
  world, ci = f'{run}/world', size.endswith('ci')
  c = config.Config(run_dir=out or run)
  c.policy.path = f'{run}/warmstart/policy'
  # Small enough for unrolled layers and kept activations: twice as fast on CPU.
  c.policy.scan, c.policy.remat = False, 'none'
  # Copying is what this model has to learn, and all that it is given time for.
  c.model = config.Model(
    layers=3,
    embed=128,
    heads=4,
    kv_heads=4,
    head_size=32,
    hidden=384,
    rope_base=100.0,
    attention_bias=True,
    copying_heads=True,
    tokenizer=f'{world}/tokenizer',
  )
  c.questions = config.Questions(f'{world}/train/questions.jsonl', f'{world}/dev/questions.jsonl')
  # A model of this size follows no instructions: the prompt is the question.
  c.protocol.prompt = 'configs/prompts/question.txt'
  c.retrieval = config.Retrieval(index=f'{run}/index/train', top_k=1)
  c.eval_retrieval = config.Retrieval(index=f'{run}/index/dev', top_k=1)
  c.rollout = config.Rollout(
    slots=48,
    context_tokens=448,
    policy_tokens=288,
    max_searches=5,
    decode_steps=12,
    extend_rows=8,
    extend_tokens=48,
  )
  c.algo = config.Algo(questions_per_step=4 if ci else 16, group_size=4 if ci else 8)
  c.optimizer = config.Optimizer(
    learning_rate=4e-4, warmup_steps=2, decay_steps=22, weight_decay=0.0, b2=0.98, grad_clip=0.1
  )
  c.learner = config.Learner(buckets=(160, 256, 352, 448), tokens_per_microbatch=6144)
  c.schedule = config.Schedule(
    steps=2 if ci else 22, eval_every=1 if ci else 11, checkpoint_every=1 if ci else 11
  )
  c.warmstart = config.Warmstart(
    demonstrations=f'{world}/train/demonstrations.jsonl',
    steps=20 if ci else 460,
    tokens_per_step=2304,
    optimizer=config.Optimizer(
      name='muon', learning_rate=5e-3, warmup_steps=10 if ci else 30, decay_steps=430, b2=0.98
    ),
  )
  if size.startswith('hard'):
    _harden(c, ci)
  return c


def _harden(c: config.Config, ci: bool) -> None:
  # A fifth page still fits; answers without a search are short.
  c.rollout.context_tokens, c.rollout.policy_tokens = 544, 320
  c.learner.buckets = (96, 160, 256, 352, 544)
  c.warmstart.steps, c.warmstart.optimizer.decay_steps = 20 if ci else 520, 490
  # Methods are given as many tokens, not as many steps: how many those are differs between them,
  # so nothing follows a schedule of steps.
  c.algo.questions_per_step = 4 if ci else 8
  c.optimizer.decay_steps = 0
  c.schedule = config.Schedule(
    steps=500,
    generated_tokens=1500 if ci else 40_000,
    eval_every=1 if ci else 5,
    checkpoint_every=1 if ci else 5,
  )
