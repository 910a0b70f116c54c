"""SSRL (arXiv 2508.10874): the policy searches its own memory; there is no retriever.

  jaxsearch bench recipes --only=ssrl

Another protocol needs a warm start of its own: it writes into its demonstrations, as the policy's
words, what the index of the training world holds.
Leaving `information` untrained is the original's choice (`algo.untrained_span`), although the
policy wrote it; '' trains it too.

It shows the method, not its scores. A policy of this size keeps the format after the quick start's
number of warm-up steps and makes its facts up (all of 48 dev questions well formed, none right),
and it cannot know dev and test, whose documents it has never seen. Where all rollouts of a question
are wrong alike there is no advantage to learn from.
"""

from configs import quickstart
from jaxsearch import config


def get_config(arguments: str = 'default,runs/quickstart,runs/recipes/ssrl') -> config.Config:
  c = quickstart.get_config(arguments)
  c.policy.path = f'{c.run_dir}/warmstart/policy'
  c.protocol.name = c.reward.name = 'ssrl'
  # What used to be read is now written.
  c.rollout.policy_tokens = max(400, c.rollout.policy_tokens)
  # `retrieval` is asked by the warm start alone: this protocol has no stop to search at.
  c.eval_retrieval = config.Retrieval(backend='none')
  c.algo.untrained_span = 'information'
  return c
