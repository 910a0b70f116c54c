"""Control: every search of training finds nothing.

  bash launch/ablations.sh

Dev and test keep the real retriever, so the bar stands beside that of the full run: what a policy
gains without ever reading a document is form, not search.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/no_retriever',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.retrieval.backend = 'none'
  return c
