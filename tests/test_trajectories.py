"""Records say what happened, and the summary of an evaluation counts every question."""

import json
import types as pytypes

import numpy as np
import pytest

from jaxsearch import metrics, trajectories
from jaxsearch.types import (
  Context,
  Document,
  Kind,
  Outcome,
  Question,
  Segment,
  Status,
  Task,
  Trajectory,
  Turn,
  UserError,
)

# A tokenizer whose ids are the letters themselves, and a protocol that answers with the last one.
LETTERS = pytypes.SimpleNamespace(text_of=lambda ids: ''.join(map(chr, ids)))
LAST = pytypes.SimpleNamespace(answer=lambda response: response.parts[-1][1][-1])


def _segment(kind, text):
  return Segment(kind, np.array([ord(c) for c in text], np.int32))


@pytest.fixture
def trajectory():
  def context(question, first, found, last):
    document = Document(f'd{found}', f'Title {found}', 'text', score=np.float32(1.5))
    turn = Turn((first,), ((document,),), 1, Outcome.OK, 0.25, segment=2)
    segments = [(Kind.PROMPT, question), (Kind.POLICY, first), (Kind.OBSERVATION, found)]
    segments.append((Kind.POLICY, last))
    return Context(tuple(_segment(*s) for s in segments), (turn,))

  task = Task(Question('q', 'Who?', ('Ada',), {'hops': 2}), position=7, sample=1, step=3)
  contexts = (context('Who?', 'ask', 'seen', 'on'), context('And?', 'again', 'more', 'é!'))
  return Trajectory(task, Status.EOS, contexts, rewards={'reward': np.float32(0.5), 'em': 0.0})


def test_response_is_everything_but_the_prompt(trajectory):
  response = trajectories.respond(trajectory, LETTERS)
  assert ''.join(text for _, text in response.parts) == 'askseenonagainmoreé!'
  assert [kind for kind, _ in response.parts] == ['policy', 'observation', 'policy'] * 2
  assert response.status is Status.EOS and len(response.turns) == 2


def test_record_survives_json(trajectory, tmp_path):
  record = trajectories.record(trajectory, LETTERS, LAST)
  trajectories.write(tmp_path / 'deep' / 't.jsonl', [record, record])
  assert trajectories.read(tmp_path / 'deep' / 't.jsonl') == [record, record]
  assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['t.jsonl']
  assert (record['step'], record['position'], record['sample'], record['id']) == (3, 7, 1, 'q')
  assert record['answer'] == '!' and record['rewards'] == {'reward': 0.5, 'em': 0.0}
  assert record['turns'][0]['documents'] == [[{'id': 'dseen', 'title': 'Title seen', 'score': 1.5}]]
  for turn, found in zip(record['turns'], ('seen', 'more'), strict=True):
    assert record['segments'][turn['segment']] == {
      'kind': 'observation',
      'text': found,
      'tokens': 4,
    }


def test_a_broken_line_is_named(tmp_path):
  path = tmp_path / 't.jsonl'
  path.write_text('{}\n{"a": \n')
  with pytest.raises(UserError, match='line 2'):
    trajectories.read(path)


def _record(hops, em, *, status='eos', searches=1, format_=1.0, **metadata):
  rewards = {'em': em, 'cover_em': em, 'f1': em / 2, 'format': format_}
  metadata |= {'hops': hops} if hops else {}
  return {'status': status, 'rewards': rewards, 'metadata': metadata, 'turns': [{}] * searches}


def test_summary_counts_every_question():
  summary = trajectories.summarize(
    [
      _record(1, 1.0),
      _record(1, 0.0, format_=0.0),
      _record(2, 1.0, searches=3),
      _record(2, 1.0, status='infra'),
    ]
  )
  assert summary['em'] == summary['cover_em'] == 0.5 and summary['f1'] == 0.25
  assert summary['em_by_hops'] == {'1': 0.5, '2': 0.5}
  assert summary['searches_by_hops'] == {'1': 1.0, '2': 2.0}
  assert summary['n_by_hops'] == {'1': 2, '2': 2}
  assert (summary['n'], summary['n_infra']) == (4, 1)
  assert summary['malformed'] == pytest.approx(1 / 3)  # Of those that ended by themselves.
  assert 'by_dataset' not in summary
  json.dumps(summary)


def test_interval_is_wilsons():
  """10 of 100: Wilson's interval is [0.0552, 0.1744] (Newcombe 1998 prints such tables)."""
  summary = trajectories.summarize([_record(0, float(i < 10)) for i in range(100)])
  assert summary['em_ci'] == pytest.approx([0.0552, 0.1744], abs=1e-4)
  assert summary['em_by_hops'] == {}
  assert trajectories.summarize([])['em_ci'] == [0.0, 1.0]


def test_data_sets_are_told_apart():
  records = [_record(0, 1.0, dataset='nq'), _record(0, 0.0, dataset='nq')]
  summary = trajectories.summarize([*records, _record(0, 1.0, dataset='bamboogle')])
  assert summary['by_dataset']['nq'] == {'em': 0.5, 'cover_em': 0.5, 'f1': 0.25, 'n': 2}
  assert summary['by_dataset']['bamboogle']['em'] == 1.0


def test_without_texts_keeps_what_metrics_read(trajectory):
  light = trajectories.without_texts(trajectory)
  assert metrics.rollout_metrics([light]) == metrics.rollout_metrics([trajectory])
  documents = [d for turn in light.turns for found in turn.documents for d in found]
  assert documents and not any(d.text or d.title for d in documents)
