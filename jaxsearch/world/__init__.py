"""A seeded fictional world: articles, questions of one to four hops, demonstrations, tokenizer.

Ordinary formats come out, so that nothing downstream knows that the data is synthetic; only the
command line imports this package.
"""

from jaxsearch.world.auditor import audit
from jaxsearch.world.auditor import show as show_audit
from jaxsearch.world.writer import SIZES, Size, write

__all__ = ['SIZES', 'Size', 'audit', 'show_audit', 'write']
