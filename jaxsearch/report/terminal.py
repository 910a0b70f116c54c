"""A run on the terminal: the table before and after, a trajectory in colour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import rich.console
import rich.panel
import rich.rule
import rich.table
import rich.text

from jaxsearch import trajectories
from jaxsearch.report.run import Run, is_right, pooled, story
from jaxsearch.types import Kind

# Any pair of tags is coloured; a protocol with other names gets the colour of 'think'.
_STYLES = {'think': 'cyan', 'search': 'bold yellow', 'answer': 'bold green'}
_TAGGED = re.compile(r'<(\w+)>.*?</\1>', re.DOTALL)


def pieces(text: str) -> Iterator[tuple[str, str]]:
  """Cuts a policy's text into (name of the tag or '', piece), in order, nothing left out."""
  end = 0
  for match in _TAGGED.finditer(text):
    if match.start() > end:
      yield '', text[end : match.start()]
    yield match.group(1), match.group()
    end = match.end()
  if end < len(text):
    yield '', text[end:]


def show(record: trajectories.Record, label: str = '') -> None:
  """Prints one trajectory in colour; gold documents carry a star.

  The frame is green for a right answer, red for a wrong one, plain if none is known.
  """
  console = rich.console.Console()
  gold = set(map(str, record['metadata'].get('supporting_documents', ())))
  text = rich.text.Text()
  turns = {turn['segment']: turn for turn in record['turns']}
  for i, segment in enumerate(record['segments']):
    if segment['kind'] == Kind.POLICY:
      for tag, piece in pieces(segment['text']):
        text.append(piece, style=_STYLES.get(tag, 'cyan' if tag else ''))
    elif i in turns:
      _append_documents(text, turns[i], gold)
    elif segment['kind'] == Kind.OBSERVATION:
      text.append(segment['text'], style='dim')
  title = f'{label}  {record["status"]}, searches: {len(record["turns"])}'.strip()
  footer, border = f'answer: {record["answer"]}', 'none'
  if record['golden_answers']:
    footer += f'   gold: {", ".join(record["golden_answers"])}'
    border = 'green' if is_right(record) else 'red'
  console.print(
    rich.panel.Panel(text, title=title, subtitle=rich.text.Text(footer), border_style=border)
  )


def print_run(run: Run) -> None:
  """Prints the table before and after and one dev question's trajectories."""
  console = rich.console.Console()
  if run.before or run.after:
    table = rich.table.Table(title='held-out questions')
    for name in ('', 'before', 'after'):
      table.add_column(name, justify='left' if not name else 'right')
    for name, before, after in rows(run.before, run.after):
      table.add_row(name, before, after)
    console.print(table)
  told = story(run)
  if told:
    console.print(rich.rule.Rule('one held-out question of dev'))
    console.print(rich.text.Text(told[0][1]['question'], style='bold'))
  for label, record in told:
    show(record, label)


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """(name, before, after) of the table, as text."""
  cells = [
    (name, before.get(key), after.get(key))
    for key, name in (('em', 'exact match'), ('cover_em', 'cover match'), ('f1', 'F1'))
  ]
  if any('1' in summary.get('n_by_hops', {}) for summary in (before, after)):
    small = (pooled(summary)[0] if summary else None for summary in (before, after))
    cells.append(('exact match, 1 to 3 hops', *small))
  for key, name in (('em_by_hops', 'exact match'), ('searches_by_hops', 'searches')):
    for hops in sorted({*before.get(key, {}), *after.get(key, {})}):
      unit = 'hop' if hops == '1' else 'hops'
      old, new = before.get(key, {}).get(hops), after.get(key, {}).get(hops)
      cells.append((f'{name}, {hops} {unit}', old, new))
  cells += [
    (name, before.get(key), after.get(key))
    for key, name in (
      ('malformed', 'malformed share'),
      ('n', 'questions'),
      ('n_infra', 'lost by infrastructure'),
    )
  ]
  return [(name, cell(old), cell(new)) for name, old, new in cells]


def cell(value: float | None) -> str:
  """A figure as text: counts whole, everything else with three digits, a dash for nothing."""
  if value is None:
    return '–'
  return str(value) if isinstance(value, int) else f'{value:.3f}'


def _append_documents(text: rich.text.Text, turn: Mapping[str, Any], gold: set[str]) -> None:
  text.append(f'\n  [{turn["outcome"]}]\n', style='dim')
  for documents in turn['documents']:
    for document in documents[: turn['shown']]:
      mark = ('  ★ ', 'bold magenta') if document['id'] in gold else ('  · ', 'dim')
      text.append(*mark).append(document['title'] + '\n', style=mark[1])
