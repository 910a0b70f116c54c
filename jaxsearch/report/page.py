"""report.html: one file that needs nothing else, readable in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxsearch import trajectories
from jaxsearch.report import charts, terminal
from jaxsearch.report.run import Run, is_right, pooled, story
from jaxsearch.types import Kind, Status

_CSS = """
:root { color-scheme: light dark; --ink: #1c1f24; --soft: #626a75; --line: #dfe3e8; --page: #fff;
  --card: #f7f8fa; --think: #1f6f8b; --search: #9a6700; --answer: #1a7f37; --gold: #8250df;
  --bar: #4269d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ae; --line: #343a42;
  --page: #14171b; --card: #1c2026; --think: #6cc5dc; --search: #e3b341; --answer: #56d364;
  --gold: #c297ff; --bar: #7d9be0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .2rem; }
p.note { color: var(--soft); margin: .3rem 0 1rem; max-width: 60rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 1rem;
  align-items: start; }
.figures { grid-template-columns: repeat(auto-fit, minmax(195px, 1fr)); margin-top: 1.2rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1rem; overflow-wrap: anywhere; overflow-x: auto; }
.card svg { width: 100%; height: auto; display: block; }
.figure { font-size: 1.5rem; font-weight: 650; overflow-wrap: normal; }
small { color: var(--soft); }
table { border-collapse: collapse; width: 100%; overflow-wrap: normal; font-size: .9em; }
td, th { padding: .25rem 0 .25rem .5rem; white-space: nowrap; text-align: right;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; padding-left: 0; white-space: normal; }
th { color: var(--soft); font-weight: 500; } table + table { margin-top: 1.2rem; }
td.after { font-weight: 650; } td.bar { width: 60%; } td.bar div { background: var(--bar);
  height: .8rem; border-radius: 3px; min-width: 1px; }
pre { white-space: pre-wrap; font: 13px/1.5 ui-monospace, monospace; margin: .5rem 0; }
.think { color: var(--think); } .search { color: var(--search); font-weight: 600; }
.answer { color: var(--answer); font-weight: 600; }
details.documents { margin: .4rem 0; padding: .2rem .7rem; border-left: 3px solid var(--line);
  color: var(--soft); } summary { cursor: pointer; } .gold { color: var(--gold); font-weight: 600; }
.right { border-top: 4px solid var(--answer); } .wrong { border-top: 4px solid #d1242f; }
"""
_ENDINGS = {
  Status.TURN_CAP: 'stopped after too many searches',
  Status.POLICY_TOKEN_CAP: 'stopped after too many tokens',
  Status.CONTEXT_CAP: 'stopped when its context was full',
  Status.INFRA: 'lost by the retriever',
}


def render(run: Run, title: str) -> str:
  """The whole page as text.

  Args:
    run: what to show; parts that it lacks are left out.
    title: shown on top, usually the run's folder.
  """
  sections = (_headline, _held_out, _training, _story, _time)
  parts = [f'<h1>{_text(title)}</h1>', *(text for section in sections for text in section(run))]
  if len(parts) == 1:
    parts.append('<p class="note">Nothing has been measured here yet.</p>')
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{_text(title)}</title><style>{_CSS}</style></head><body>'
    + '\n'.join(parts)
    + '</body></html>\n'
  )


def _headline(run: Run) -> list[str]:
  figures = []
  if run.before and run.after:
    (before, n), (after, _) = pooled(run.before), pooled(run.after)
    asked = 'of 1 to 3 hops' if '1' in run.after['n_by_hops'] else 'in all'
    figures += [
      (f'{before:.2f} → {after:.2f}', f'exact match on {n} held-out questions {asked}'),
      (f'{run.before["searches"]:.2f} → {run.after["searches"]:.2f}', 'searches per question'),
    ]
  if run.metrics:
    figures.append((str(int(run.metrics[-1]['step'])), 'training steps'))
  if run.seconds:
    figures.append((f'{run.seconds["total"] / 60:.1f} min', 'all verbs together'))
  if run.peak_rss_mb:
    figures.append((f'{run.peak_rss_mb / 1024:.1f} GiB', 'peak memory'))
  if not figures:
    return []
  cards = (_card(f'<div class="figure">{f}</div><small>{name}</small>') for f, name in figures)
  return [f'<div class="grid figures">{"".join(cards)}</div>']


def _held_out(run: Run) -> list[str]:
  if not (run.before or run.after):
    return []
  cards = [_card(_by_hops(run) + _overall(run)), *map(_card, charts.before_and_after(run))]
  return [
    '<h2>Held-out questions, before and after training</h2>',
    _note(
      'Answered greedily by the policy that training began with, and by the one that was best on '
      'dev. A hop is a fact that must be looked up before the next can be asked for. An exact '
      'match is the accepted answer but for case, punctuation and articles.'
    ),
    _grid(cards),
  ]


def _by_hops(run: Run) -> str:
  hops = sorted({h for s in (run.before, run.after) for h in s.get('em_by_hops', {})})
  if not hops:
    return ''
  rows = []
  for h in hops:
    cells = [
      terminal.cell(summary.get(key, {}).get(h))
      for key in ('em_by_hops', 'searches_by_hops')
      for summary in (run.before, run.after)
    ]
    rows.append((h, *cells, str((run.after or run.before)['n_by_hops'][h])))
  heads = '<th colspan="2">exact match</th><th colspan="2">searches</th><th></th>'
  names = ('hops', 'before', 'after', 'before', 'after', 'n')
  return _table(names, rows, above=f'<tr><th></th>{heads}</tr>', strong=(2, 4))


def _overall(run: Run) -> str:
  names = {
    'em': 'exact match, all',
    'cover_em': 'cover match',
    'f1': 'F1',
    'malformed': 'malformed',
    'n_infra': 'lost by the retriever',
  }
  rows = []
  for key, name in names.items():
    cells = (terminal.cell(summary.get(key)) for summary in (run.before, run.after))
    rows.append((name, *cells))
  intervals = (s.get('em_ci') for s in (run.before, run.after))
  texts = (f'{ci[0]:.2f}–{ci[1]:.2f}' if ci else '–' for ci in intervals)
  rows.insert(1, ('its 95 % interval', *texts))
  return _table(('', 'before', 'after'), rows, strong=(2,))


def _training(run: Run) -> list[str]:
  pictures = charts.training(run)
  if not pictures:
    return []
  note = (
    'Dev is asked greedily; training rollouts are sampled. The gap between the log-probability '
    'that the sampler recorded and the one that the learner computes shows that both run the same '
    'policy.'
  )
  return ['<h2>Training</h2>', _note(note), _grid(map(_card, pictures))]


def _story(run: Run) -> list[str]:
  told = story(run)
  if not told:
    return []
  first, last = told[0][1], told[-1][1]
  if is_right(last) and not is_right(first):
    choice = 'Of the dev questions that were learnt, the one of most hops.'
  elif is_right(last):
    choice = 'No dev question was learnt; this one was answered from the start.'
  else:
    choice = 'No dev question is answered yet.'
  gold = ', '.join(last['golden_answers'])
  return [
    '<h2>One held-out question</h2>',
    f'<p>{_text(first["question"])} <small>(answer: {_text(gold)})</small></p>',
    _note(
      choice + ' ★ marks the documents that the answer rests on; click to read what was found.'
    ),
    _grid(_trajectory(label, record) for label, record in told),
  ]


def _time(run: Run) -> list[str]:
  if not run.seconds:
    return []
  total = run.seconds['total']
  rows = [
    f'<tr><td>{_text(verb)}</td><td>{seconds:.1f} s</td><td class="bar">'
    f'<div style="width:{100 * seconds / max(total, 1e-9):.1f}%"></div></td></tr>'
    for verb, seconds in run.seconds.items()
    if verb != 'total'
  ]
  rows.append(f'<tr><td>total</td><td>{total:.1f} s</td><td></td></tr>')
  return ['<h2>Where the time went</h2>', _card(f'<table>{"".join(rows)}</table>')]


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
    elif segment['kind'] == Kind.OBSERVATION:
      body.append(_documents(turns.get(i, {}), gold, segment['text']))
  verdict = 'right' if is_right(record) else 'wrong'
  count = len(record['turns'])
  facts = [verdict, f'{count} search' if count == 1 else f'{count} searches']
  facts += [_ENDINGS[record['status']]] if record['status'] in _ENDINGS else []
  answer = 'no answer' if record['answer'] is None else f'answer: {record["answer"]}'
  return (
    f'<div class="card {verdict}"><b>{_text(label)}</b> <small>{" · ".join(facts)}</small>'
    f'{"".join(body)}<small>{_text(answer)}</small></div>'
  )


def _documents(turn: Mapping[str, Any], gold: set[str], text: str) -> str:
  found: Sequence[Mapping[str, Any]] = [
    document for list_ in turn.get('documents', ()) for document in list_[: turn['shown']]
  ]
  titles = (
    f'<span class="gold">★ {_text(d["title"])}</span>' if d['id'] in gold else _text(d['title'])
    for d in found
  )
  head = ' · '.join(titles) or _text(turn.get('outcome', 'notice').replace('_', ' '))
  shown = f'<pre>{_text(text.strip())}</pre>'
  return f'<details class="documents"><summary>{head}</summary>{shown}</details>'


def _table(
  names: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  above: str = '',
  strong: Sequence[int] = (),
) -> str:
  head = ''.join(f'<th>{name}</th>' for name in names)
  body = ''.join(
    '<tr>'
    + ''.join(
      f'<td class="after">{_text(cell)}</td>' if i in strong else f'<td>{_text(cell)}</td>'
      for i, cell in enumerate(row)
    )
    + '</tr>'
    for row in rows
  )
  return f'<table>{above}<tr>{head}</tr>{body}</table>'


def _grid(cards: Iterable[str]) -> str:
  return f'<div class="grid">{"".join(cards)}</div>'


def _card(content: str) -> str:
  return f'<div class="card">{content}</div>'


def _note(text: str) -> str:
  return f'<p class="note">{_text(text)}</p>'


def _text(value: object) -> str:
  return html.escape(str(value))
