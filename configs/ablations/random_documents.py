"""Control: every search of training finds documents drawn at random from the training corpus.

  bash launch/ablations.sh

Dev and test keep the real retriever. The documents look like answers but hold none, so what is
gained is not gained by reading.
"""

from configs import quickstart
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/random_documents',
) -> config.Config:
  c = quickstart.get_config(arguments)
  c.retrieval.backend = 'random'
  return c
