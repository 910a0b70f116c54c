"""The report of a run: its files, what they hold, what is left out when it is not there."""

import json
import xml.etree.ElementTree

import pytest

from jaxsearch import metrics, report, trajectories
from jaxsearch.types import UserError


def _record(hops, *, em, searches=1, name=None):
  """A record whose search n finds gold document g<n> and another one."""
  segments = [{'kind': 'prompt', 'text': 'Question?', 'tokens': 3}]
  turns = []
  for n in range(searches):
    text = f'<think> step {n} & more </think> <search> query {n} </search>'
    segments += [
      {'kind': 'policy', 'text': text, 'tokens': 9},
      {'kind': 'observation', 'text': '<result> … </result>', 'tokens': 20},
    ]
    documents = [[{'id': f'g{n}', 'title': f'Gold <{n}>', 'score': 2.0}]]
    documents[0].append({'id': f'x{n}', 'title': f'Other {n}', 'score': 1.0})
    turns.append({'queries': [f'query {n}'], 'outcome': 'ok', 'latency_s': 0.1, 'shown': 2})
    turns[-1] |= {'segment': 2 * n + 2, 'documents': documents}
  segments.append({'kind': 'policy', 'text': '<answer> \\boxed{Ada} </answer>', 'tokens': 8})
  return {
    'step': 0,
    'position': 0,
    'sample': 0,
    'id': name or f'dev-{hops}',
    'question': f'Who, at {hops} hops?',
    'golden_answers': ['Ada' if em else 'Bea'],
    'metadata': {'hops': hops, 'supporting_documents': [f'g{n}' for n in range(hops)]},
    'status': 'eos',
    'attempt': 0,
    'rewards': {'reward': float(em), 'em': float(em), 'cover_em': 1.0, 'f1': 0.5, 'format': 1.0},
    'answer': 'Ada',
    'segments': segments,
    'turns': turns,
  }


def _write_run(folder, *, finished=True):
  before = [_record(h, em=h == 1, name=f'{h}-{i}') for h in (1, 2, 3, 4) for i in range(5)]
  after = [
    _record(h, em=h < 4, searches=h, name=f'{h}-{i}') for h in (1, 2, 3, 4) for i in range(5)
  ]
  for name, records in (('eval_before', before), ('eval_after', after)):
    trajectories.write(folder / name / 'trajectories.jsonl', records)
    summary = json.dumps(trajectories.summarize(records))
    (folder / name / 'summary.json').write_text(summary)
    if not finished:
      break
  writer = metrics.MetricWriter(folder)
  for step in range(21):
    values = {'reward/mean': step / 20, 'reward/em/mean': step / 25, 'timing_s/gen': 2 + step % 3}
    values |= {'group/rollouts': 8.0, 'group/frac_with_signal': 0.5}
    values |= {'length/generated_mean': 100.0, 'length/policy_tokens_mean': 125.0}
    values |= {'timing_s/update': 1.5, 'timing_s/step': 4.0, 'mismatch/logp_absdiff_max': 1e-6}
    if step % 10 == 0:
      values['val/em'] = step / 30
      for hops in range(1, 5):
        values[f'val/em_by_hops/{hops}'] = min(1.0, 0.1 + step / 20 / hops)
        values[f'val/searches_by_hops/{hops}'] = 1 + (hops - 1) * step / 20
    writer.write(step, values)
  writer.close()
  for step in (0, 10, 20):
    dev = [
      _record(h, em=step == 20 and h < 4, searches=1 + (h - 1) * step // 20) for h in (1, 3, 4)
    ]
    trajectories.write(folder / 'trajectories' / f'dev_{step}.jsonl', dev)
  usage = [
    ('world', 2.0, 100.0),
    ('index', 1.0, 90.0),
    ('index', 2.0, 80.0),
    ('train', 9.5, 1500.0),
  ]
  lines = [{'verb': v, 'seconds': s, 'peak_rss_mb': m} for v, s, m in usage]
  trajectories.write(folder / 'usage.jsonl', lines)
  (folder / 'config.json').write_text('{"seed": 7}')
  return folder


def test_summary_has_the_shape_machines_read(tmp_path):
  summary = report.write(_write_run(tmp_path))
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  needed = {'em', 'cover_em', 'f1', 'em_by_hops', 'searches_by_hops', 'malformed', 'n', 'n_infra'}
  assert needed <= summary['eval_before'].keys() and needed <= summary['eval_after'].keys()
  assert summary['eval_before']['em'] == 0.25 and summary['eval_after']['em'] == 0.75
  assert summary['seconds'] == {'world': 2.0, 'index': 3.0, 'train': 9.5, 'total': 14.5}
  assert summary['peak_rss_mb'] == 1500.0 and summary['seed'] == 7


def test_page_holds_tables_curves_and_escaped_trajectories(tmp_path):
  report.write(_write_run(tmp_path))
  page = (tmp_path / 'report.html').read_text()
  for text in ('exact match on dev', 'searches per dev question', 'seconds of each step'):
    assert text in page
  assert '★ Gold &lt;0&gt;' in page and 'Gold <0>' not in page and '&amp; more' in page
  assert '<script' not in page and 'src=' not in page  # One file that needs nothing else.
  pictures = page.split('<svg')[1:]
  assert len(pictures) == 8
  for picture in pictures:
    xml.etree.ElementTree.fromstring('<svg' + picture.split('</svg>')[0] + '</svg>')


def test_parts_of_a_verb_are_not_counted_twice(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  times = {'timing_s/gen': 2.0, 'timing_s/gen/decode': 1.5, 'timing_s/step': 2.0}
  writer.write(0, times | {'mismatch/logp_absdiff_max': 0.0})
  writer.close()
  report.write(tmp_path)
  page = (tmp_path / 'report.html').read_text()
  assert '>gen<' in page and 'gen/decode' not in page and '>step</text>' in page


def test_nothing_is_claimed_about_a_policy_that_learnt_nothing(tmp_path):
  for step in (0, 10):
    dev = [_record(2, em=False), _record(3, em=False, searches=0)]
    dev[1] |= {'answer': None, 'status': 'turn_cap'}
    trajectories.write(tmp_path / 'trajectories' / f'dev_{step}.jsonl', dev)
  report.write(tmp_path)
  page = (tmp_path / 'report.html').read_text()
  assert 'No dev question is answered yet.' in page and 'no answer' in page
  assert 'stopped after too many searches' in page


def test_story_is_a_question_that_was_learnt(tmp_path, capsys):
  report.write(_write_run(tmp_path))
  out = capsys.readouterr().out
  assert 'Who, at 3 hops?' in out and 'half-way (step 10)' in out and '★ Gold <2>' in out
  assert 'exact match, 2 hops' in out and '0.750' in out


@pytest.mark.parametrize('finished', [True, False])
def test_a_run_that_has_written_nothing_or_half_is_reported(tmp_path, finished):
  folder = tmp_path if finished else _write_run(tmp_path, finished=False)
  summary = report.write(folder)
  assert summary['eval_after'] == {}
  page = (tmp_path / 'report.html').read_text()
  assert ('Nothing has been measured here yet.' in page) == finished


def test_pictures_of_several_runs(tmp_path):
  runs = {name: str(_write_run(tmp_path / name)) for name in ('seed 0', 'seed 1')}
  for draw, name in ((report.bars, 'bars.png'), (report.curves, 'curves.png')):
    draw(runs, str(tmp_path / 'out' / name))
    assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG')


def test_a_run_without_evaluation_is_named(tmp_path):
  folder = _write_run(tmp_path / 'half', finished=False)
  with pytest.raises(UserError, match='half'):
    report.bars({'half': str(folder)}, str(tmp_path / 'bars.png'))
  assert not (tmp_path / 'bars.png').exists()
