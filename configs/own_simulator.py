"""ZeroSearch (arXiv 2505.04588) with a simulator of our own, beside a finished quick start.

  bash launch/own_simulator.sh

The quick start's warm start answers the training questions; what its searches find, half of it
noise, is what a second model learns to write (`jaxsearch collect`, then `warmstart
--task=simulator`). The policy is then trained on what that model writes, and tested on the real
index. The argument after the colon: the size, the quick start's folder and the folder of this run.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/own_simulator',
) -> config.Config:
  size, _, out = arguments.split(',')
  c = quickstart.get_config(arguments)
  c.retrieval = config.Retrieval(
    backend='engine_simulator',
    index=c.retrieval.index,  # Of `collect`, which asks the real one.
    top_k=1,
    simulator=f'{out}/simulator/policy',
    mode='tuned',
    # A model of this size follows no instructions: the prompt names what matters.
    prompt='configs/prompts/simulator.txt',
    questions=c.questions.train,
    noise_start=0.0,
    noise_end=0.5,
    batch=24,
    answer_tokens=80,  # A page has up to 51.
    context_tokens=224,
    deadline_s=240.0,  # The simulator writes on the same two cores.
  )
  # The simulator's: as long as the warm start, from questions to pages.
  c.warmstart.records = f'{out}/records.jsonl'
  c.warmstart.steps = 20 if size.endswith('ci') else 460
  return c
