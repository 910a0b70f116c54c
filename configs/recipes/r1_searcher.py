"""R1-Searcher (arXiv 2503.05592): first searching and form are paid, then the answer and form.

The first stage sees no answer's reward, the second none for searching; both are REINFORCE++ with
the group's mean as baseline. A third of the tokens goes to the first.

  jaxsearch bench recipes --only=r1_searcher
"""

from configs.recipes import reinforce_plus_plus
from jaxsearch import config

_RUN = 'default,runs/quickstart,runs/recipes/r1_searcher'
PHASES = (f'{_RUN},stage1', f'{_RUN},stage2')


def get_config(arguments: str = PHASES[1]) -> config.Config:
  run, _, phase = arguments.rpartition(',')
  c = reinforce_plus_plus.get_config(run)
  c.policy.reference = c.policy.path
  tokens = c.schedule.generated_tokens
  if phase == 'stage1':
    c.run_dir += '/stage1'
    c.reward.name = 'r1_searcher_stage1'
    c.schedule.generated_tokens = tokens // 3
    # All that is to be learnt here is to search; what dev says of answers must not choose.
    c.schedule.eval_every, c.schedule.export = c.schedule.steps, 'newest'
  else:
    c.policy.path = f'{c.run_dir}/stage1/policy'
    c.reward.name = 'r1_searcher_stage2'
    c.schedule.generated_tokens = tokens - tokens // 3
  return c
