"""Why a search failed, as one word that metrics can count.

The message of a result whose backend knows the reason begins with that word and a colon:
'http_500: http://…', 'broken_json: …'.
"""

from __future__ import annotations

import re

from jaxsearch.types import Outcome

_KIND = re.compile(r'([a-z][a-z0-9_]{0,31}): ')


def kind(message: str, otherwise: str = 'other') -> str:
  """The word that the message of a result begins with; `otherwise` if it has none."""
  match = _KIND.match(message)
  return match[1] if match else otherwise


class Failure(Exception):
  """A call to a retriever that came to nothing; the message begins with its kind.

  Attributes:
    outcome: what the search ends with, if nothing else answers it.
    blames: whether it speaks against the health of the replica.
    is_final: every replica would say the same.
    again_s: seconds after which the replica wants to be asked again; None if it did not say.
  """

  def __init__(
    self,
    outcome: Outcome,
    message: str,
    *,
    blames: bool = True,
    is_final: bool = False,
    again_s: float | None = None,
  ):
    super().__init__(message)
    self.outcome = outcome
    self.blames = blames
    self.is_final = is_final
    self.again_s = again_s
