"""report.html: one file that needs nothing else, readable in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsearch import trajectories
from jaxsearch.report import figures, terminal
from jaxsearch.report.run import Run, pooled, series, story
from jaxsearch.types import Kind

_CSS = """
:root { color-scheme: light dark; --ink: #1c1f24; --soft: #626a75; --line: #dfe3e8; --page: #fff;
  --card: #f7f8fa; --think: #1f6f8b; --search: #9a6700; --answer: #1a7f37; --gold: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ae; --line: #343a42;
  --page: #14171b; --card: #1c2026; --think: #6cc5dc; --search: #e3b341; --answer: #56d364;
  --gold: #c297ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
p.note { color: var(--soft); margin: .3rem 0 1rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1rem; overflow-wrap: anywhere; }
.card svg { width: 100%; height: auto; }
.figure { font-size: 1.9rem; font-weight: 650; } small { color: var(--soft); }
table { border-collapse: collapse; } td, th { padding: .22rem .9rem .22rem 0; text-align: right;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
pre { white-space: pre-wrap; font: 13px/1.5 ui-monospace, monospace; margin: .5rem 0; }
.think { color: var(--think); } .search { color: var(--search); font-weight: 600; }
.answer { color: var(--answer); font-weight: 600; }
ul.documents { list-style: none; margin: .3rem 0; padding: .3rem .7rem; border-left: 3px solid
  var(--line); color: var(--soft); } li.gold { color: var(--gold); font-weight: 600; }
.right { border-top: 4px solid var(--answer); } .wrong { border-top: 4px solid #d1242f; }
"""


def render(run: Run, title: str) -> str:
  """The whole page as text.

  Args:
    run: what to show; parts that it lacks are left out.
    title: shown on top, usually the run's folder.
  """
  parts = [f'<h1>{_text(title)}</h1>', _headline(run)]
  if run.before or run.after:
    parts += ['<h2>Held-out questions</h2>', '<div class="grid">', _comparison(run), '</div>']
  if run.metrics:
    parts += ['<h2>Training</h2>', '<div class="grid">', *_curves(run), '</div>']
  told = story(run)
  if told:
    parts += ['<h2>One held-out question of dev</h2>', f'<p>{_text(told[0][1]["question"])}</p>']
    parts.append(
      '<p class="note">The question of most hops that is answered at the end and was not at the '
      'start. ★ marks documents that the answer rests on.</p>'
    )
    cards = [_trajectory(label, record) for label, record in told]
    parts += ['<div class="grid">', *cards, '</div>']
  if run.seconds:
    parts += ['<h2>Where the time went</h2>', '<div class="grid">', _seconds(run), '</div>']
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{_text(title)}</title><style>{_CSS}</style></head><body>'
    + '\n'.join(parts)
    + '</body></html>\n'
  )


def _headline(run: Run) -> str:
  cards = []
  if run.before and run.after:
    (before, n), (after, _) = pooled(run.before), pooled(run.after)
    cards.append((f'{before:.2f} → {after:.2f}', f'exact match, 1 to 3 hops, {n} questions'))
    cards.append(
      (f'{run.before["searches"]:.2f} → {run.after["searches"]:.2f}', 'searches per question')
    )
  if run.metrics:
    cards.append((str(int(run.metrics[-1]['step'])), 'last step'))
  if run.seconds:
    cards.append((f'{run.seconds["total"] / 60:.1f} min', 'all verbs together'))
  return (
    '<div class="grid" style="margin-top:1rem">'
    + ''.join(
      f'<div class="card"><div class="figure">{figure}</div><small>{name}</small></div>'
      for figure, name in cards
    )
    + '</div>'
  )


def _comparison(run: Run) -> str:
  lines = terminal.rows(run.before, run.after)
  body = ''.join(f'<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>' for a, b, c in lines)
  table = f'<table><tr><th></th><th>before</th><th>after</th></tr>{body}</table>'
  known = {'before': run.before, 'after': run.after}
  pictures = [
    figures.svg(
      lambda axis, key=key, label=label: figures.grouped_bars(
        axis, {name: s[key] for name, s in known.items() if s.get(key)}, label
      ),
      f'{label} by number of hops',
    )
    for key, label in (('em_by_hops', 'exact match'), ('searches_by_hops', 'searches'))
  ]
  return _card(table) + _card(''.join(pictures))


def _curves(run: Run) -> list[str]:
  hops = {key: series(run, f'val/{key}_by_hops/') for key in ('em', 'searches')}
  rewards = _named(run, {'reward/mean': 'reward', 'reward/em/mean': 'exact match'})
  gap = _named(run, {'mismatch/logp_absdiff_max': 'max', 'mismatch/logp_absdiff_mean': 'mean'})
  lengths = _named(
    run, {'length/policy_tokens_mean': 'policy', 'length/observation_tokens_mean': 'observation'}
  )
  times = {name: value for name, value in series(run, 'timing_s/').items() if name != 'step'}
  pictures = [
    (lambda a: figures.lines(a, hops['em'], label='hops: '), 'exact match on dev', hops['em']),
    (
      lambda a: figures.lines(a, hops['searches'], label='hops: ', share=False),
      'searches per dev question',
      hops['searches'],
    ),
    (lambda a: figures.lines(a, rewards), 'training rollouts', rewards),
    (lambda a: figures.lines(a, gap, share=False), '|sampler − learner log-prob|', gap),
    (lambda a: figures.lines(a, lengths, share=False), 'tokens per trajectory', lengths),
    (lambda a: figures.stacked(a, times), 'seconds of each step', times),
  ]
  return [_card(figures.svg(draw, title)) for draw, title, data in pictures if data]


def _named(run: Run, names: Mapping[str, str]) -> figures.Series:
  return {label: series(run, name)[''] for name, label in names.items() if series(run, name)}


def _seconds(run: Run) -> str:
  lines = ''.join(f'<tr><td>{v}</td><td>{s:.1f} s</td></tr>' for v, s in run.seconds.items())
  memory = f'<p class="note">Peak memory {run.peak_rss_mb:.0f} MB.</p>' if run.peak_rss_mb else ''
  return _card(f'<table>{lines}</table>{memory}')


def _trajectory(label: str, record: trajectories.Record) -> str:
  gold = set(map(str, record['metadata'].get('supporting_documents', ())))
  turns = {turn['segment']: turn for turn in record['turns']}
  body = []
  for i, segment in enumerate(record['segments']):
    if segment['kind'] == Kind.POLICY:
      spans = (
        f'<span class="{tag}">{_text(piece)}</span>'
        for tag, piece in terminal.pieces(segment['text'])
      )
      body.append(f'<pre>{"".join(spans)}</pre>')
    elif i in turns:
      body.append(_documents(turns[i], gold))
    elif segment['kind'] == Kind.OBSERVATION:
      body.append(f'<pre class="note">{_text(segment["text"])}</pre>')
  verdict = 'right' if record['rewards'].get('em', 0) > 0 else 'wrong'
  answers = ', '.join(record['golden_answers'])
  return (
    f'<div class="card {verdict}"><b>{label}</b> · {record["status"]} · {verdict}{"".join(body)}'
    f'<small>answer: {_text(record["answer"])} · gold: {_text(answers)}</small></div>'
  )


def _documents(turn: Mapping[str, Any], gold: set[str]) -> str:
  shown: Sequence[Mapping[str, Any]] = [d for ds in turn['documents'] for d in ds[: turn['shown']]]
  items = ''.join(
    f'<li class="gold">★ {_text(d["title"])}</li>'
    if d['id'] in gold
    else f'<li>{_text(d["title"])}</li>'
    for d in shown
  )
  return f'<ul class="documents">{items or "<li>" + turn["outcome"] + "</li>"}</ul>'


def _card(content: str) -> str:
  return f'<div class="card">{content}</div>'


def _text(value: object) -> str:
  return html.escape(str(value))
