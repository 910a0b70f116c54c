"""What a person sees of a run: report.html, summary.json, a trajectory in colour.

Reads only what the run has written, so it also works on a run that is still going on.
"""

from jaxsearch.report.compare import bars, curves
from jaxsearch.report.terminal import show
from jaxsearch.report.writer import write

__all__ = ['bars', 'curves', 'show', 'write']
