"""Control: random documents, and half a name is not paid.

  jaxsearch bench recipes --only=random_documents_exact

A random page of the right kind often ends in the right word, which F1 pays half: enough to learn to
search, for the wrong reason. Paid by exact match (and form), random documents hold nothing.
"""

from configs.ablations import random_documents
from jaxsearch import config


def get_config(
  arguments: str = 'default,runs/quickstart,runs/ablations/random_documents_exact',
) -> config.Config:
  c = random_documents.get_config(arguments)
  c.reward.name = 'em_format'
  return c
