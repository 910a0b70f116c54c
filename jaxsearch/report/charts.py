"""The pictures of one run's page, each as <svg> text; what the run has not measured is left out."""

from __future__ import annotations

from collections.abc import Mapping

from jaxsearch.report import figures
from jaxsearch.report.run import Run, series


def before_and_after(run: Run) -> list[str]:
  """Bars by number of hops: exact match and searches of the held-out questions."""
  known = {name: s for name, s in (('before', run.before), ('after', run.after)) if s}
  pictures = []
  for key, title, top in (
    ('em_by_hops', 'exact match, by hops', 1.0),
    ('searches_by_hops', 'searches, by hops', None),
  ):
    groups = {name: summary[key] for name, summary in known.items() if summary.get(key)}
    if groups:
      pictures.append(
        figures.svg(lambda axis, g=groups, t=top: figures.grouped_bars(axis, g, top=t), title)
      )
  return pictures


def training(run: Run) -> list[str]:
  """Curves over the steps: what dev says, what the rollouts did, what the update saw, time."""
  share = {'share': True}
  times = {verb: value for verb, value in series(run, 'timing_s/').items() if _is_verb(verb)}
  curves = [
    ('exact match on dev', _by_hops(run, 'val/em_by_hops/'), share),
    ('searches per dev question', _by_hops(run, 'val/searches_by_hops/'), {}),
    (
      'training rollouts',
      _named(run, {'reward/mean': 'reward', 'reward/em/mean': 'exact match'}),
      share,
    ),
    (
      'what the searches found',
      _named(
        run,
        {
          'search/gold_in_docs_rate': 'gold documents seen',
          'search/valid_action_ratio': 'valid actions',
        },
      ),
      share,
    ),
    (
      'tokens per rollout',
      _named(
        run,
        {
          'length/policy_tokens_mean': 'by the policy',
          'length/observation_tokens_mean': 'by the retriever',
        },
      ),
      {},
    ),
    ('entropy of the policy, nats', _named(run, {'actor/entropy': 'per token'}), {}),
    (
      '|sampler − learner log-prob|',
      _named(run, {'mismatch/logp_absdiff_max': 'largest', 'mismatch/logp_absdiff_mean': 'mean'}),
      {'log': True},
    ),
    (
      'seconds of a search',
      _named(run, {'search/latency_s/p50': 'median', 'search/latency_s/p95': '95th percentile'}),
      {},
    ),
  ]
  pictures = [
    figures.svg(lambda axis, d=data, o=options: figures.lines(axis, d, **o), title)
    for title, data, options in curves
    if data
  ]
  if times:
    pictures.append(figures.svg(lambda axis: figures.stacked(axis, times), 'seconds of each step'))
  return pictures


def _is_verb(name: str) -> bool:
  """Not the whole step, nor a part of a verb, which would be counted twice."""
  return name != 'step' and '/' not in name


def _by_hops(run: Run, prefix: str) -> figures.Series:
  found = series(run, prefix)
  return {f'{hops} hop' if hops == '1' else f'{hops} hops': line for hops, line in found.items()}


def _named(run: Run, names: Mapping[str, str]) -> figures.Series:
  found = {label: series(run, name).get('') for name, label in names.items()}
  return {label: line for label, line in found.items() if line}
