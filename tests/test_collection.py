"""Records of real searches: how they are labelled, written, read and refused."""

import json

import numpy as np
import pytest
import tiny

from jaxsearch import cli, collection
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

AMBER = Document('d0', 'amber', 'The amber lies near Birch.')
CEDAR = Document('d2', 'birch', 'The cedar lies near dune.')


@pytest.mark.parametrize(
  ('supporting', 'documents', 'useful'),
  [
    (['d0', 'd9'], [CEDAR, AMBER], True),
    (['d9'], [AMBER], False),  # The answer stands in it, but it is not on the way.
    (None, [CEDAR, AMBER], True),
    (None, [CEDAR], False),  # A title is no text.
    ([], [AMBER], True),
  ],
)
def test_the_rule_by_hand(supporting, documents, useful):
  metadata = {} if supporting is None else {'supporting_documents': supporting}
  question = Question('q', 'What is near amber?', ('birch!', 'elm'), metadata)
  assert collection.is_useful(question, documents) is useful


def test_a_record_is_what_one_query_was_shown():
  question = Question('q', 'What?', ('birch',), {'supporting_documents': ['d0']})

  def turn(queries, documents, shown, outcome=Outcome.OK):
    return Turn(queries, documents, shown, outcome, 0.1, 2)

  turns = (
    turn(('one', 'two', 'three'), ((CEDAR, AMBER), (AMBER,), ()), 1),
    turn((), (), 0, Outcome.BAD_QUERY),
    turn(('four',), ((),), 0, Outcome.EMPTY),
    turn(('five',), ((CEDAR, AMBER),), 2),
  )
  context = Context((Segment(Kind.PROMPT, np.array([1], np.int32)),), turns)
  trajectory = Trajectory(Task(question, 0, 0, 0), Status.EOS, (context,))
  found = collection.records_of(trajectory)
  assert [(r['query'], r['useful']) for r in found] == [
    ('one', False),  # The supporting document did not fit and was not shown.
    ('two', True),
    ('five', True),
  ]
  assert [[d['id'] for d in r['documents']] for r in found] == [['d2'], ['d0'], ['d2', 'd0']]
  assert found[1]['documents'] == [
    {'id': 'd0', 'title': 'amber', 'text': 'The amber lies near Birch.'}
  ]


def test_a_policy_collects_records_of_both_kinds(tiny_folder, tmp_path, capsys):
  out = tmp_path / 'new' / 'records.jsonl'
  overrides = {'backend': 'noisy', 'noise_start': 0.5, 'noise_end': 0.5}
  command = tiny.command(
    'collect', tiny_folder, 'unused', **{f'retrieval__{k}': v for k, v in overrides.items()}
  )
  assert cli.main([*command, f'--out={out}', '--samples=3']) == 0
  counts = json.loads(capsys.readouterr().out.splitlines()[-1])
  records = collection.read(out)
  assert {
    kind: sum(r['useful'] is (kind == 'useful') for r in records) for kind in counts
  } == counts
  assert sum(counts.values()) == len(records) >= 11 and min(counts.values()) >= 4
  # Which documents are noise is known here: those of other words.
  for record in records:
    word = record['question'].removeprefix('What is near ').removesuffix('?')
    assert record['golden_answers'] == [tiny.NEAR[word]]
    assert record['useful'] == any(d['title'] == word for d in record['documents'])
    for document in record['documents']:
      title = document['title']
      assert document['text'] == f'The {title} lies near {tiny.NEAR[title]}.'
  assert not (tiny_folder / 'unused').exists()


GOOD = {
  'query': 'q',
  'question': 'Q?',
  'golden_answers': ['a'],
  'documents': [{'title': 't', 'text': 'x'}],
  'useful': True,
}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'useful': 1}, 'useful is 1'),
    ({'golden_answers': 'abc'}, "golden_answers is 'abc'"),
    ({'documents': []}, 'documents is empty'),
    ({'documents': [{'title': 't'}]}, "KeyError('text')"),
    ({'query': None}, 'is not a string'),
  ],
)
def test_a_broken_record_is_named(tmp_path, change, message):
  tiny.lines(tmp_path / 'r.jsonl', [GOOD, {**GOOD, **change}])
  with pytest.raises(UserError) as caught:
    collection.read(tmp_path / 'r.jsonl')
  assert 'r.jsonl, line 2: ' in str(caught.value) and message in str(caught.value)
  assert 'A line is {"query"' in str(caught.value)


def test_no_record_is_told(tmp_path):
  (tmp_path / 'r.jsonl').write_text('')
  with pytest.raises(UserError, match='holds no record.*jaxsearch collect'):
    collection.read(tmp_path / 'r.jsonl')


def test_what_cannot_work_is_refused(tiny_folder, tmp_path, capsys):
  command = tiny.command('warmstart', tiny_folder, 'refused', warmstart__records='/nowhere')
  assert cli.main([*command, '--task=simulator']) == 2
  error = capsys.readouterr().err
  assert "retrieval.mode is 'prompted'; allowed with warmstart --task=simulator: tuned" in error
  assert "warmstart.records is '/nowhere'; allowed: an existing JSON lines file" in error
  command = tiny.command('collect', tiny_folder, 'refused', retrieval__index='/nowhere')
  assert cli.main([*command, f'--out={tmp_path}/r.jsonl']) == 2
  assert "retrieval.index is '/nowhere'" in capsys.readouterr().err
  command = tiny.command('collect', tiny_folder, 'refused', retrieval__backend='none')
  assert cli.main([*command, f'--out={tmp_path}']) == 2
  assert 'is a folder; give a file' in capsys.readouterr().err
  assert cli.main([*command, f'--out={tmp_path}/r.jsonl']) == 2
  assert 'found a document; give a --policy that searches' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
