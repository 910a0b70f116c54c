"""Evaluation: greedy, every question, scored from the response alone."""

import json

import jax
import pytest
import tiny

from jaxsearch import checkpoint, cli, evaluation, questions, trajectories
from jaxsearch.models import decoder
from jaxsearch.text import tokenizer as tokenizer_lib


def _questions(path, count):
  """Each word in turn, so that the same question comes back in other company."""
  words = list(tiny.NEAR.items())
  tiny.lines(
    path,
    [
      {
        'id': f'n{i}',
        'question': f'What is near {words[i % 16][0]}?',
        'golden_answers': [words[i % 16][1]],
        'metadata': {'hops': 1 + i % 3},
      }
      for i in range(count)
    ],
  )


def _evaluate(config, folder, questions, **options):
  options = {'samples': 0, 'policy': config.policy.path} | options
  summary = evaluation.evaluate(
    config, questions=str(questions), index=config.retrieval.index, out=str(folder), **options
  )
  return summary, trajectories.read(folder / 'trajectories.jsonl')


@pytest.mark.parametrize('count', [5, 259])  # Fewer than slots; a last portion of three.
def test_every_question_is_scored_once_and_greedily(tiny_folder, tmp_path, count):
  _questions(tmp_path / 'q.jsonl', count)
  config = tiny.configure(tiny_folder, 'eval')
  summary, records = _evaluate(config, tmp_path, tmp_path / 'q.jsonl')
  assert [r['id'] for r in records] == [f'n{i}' for i in range(count)]
  assert summary['n'] == count == sum(summary['n_by_hops'].values()) and summary['n_infra'] == 0
  assert summary['em'] == sum(r['rewards']['em'] for r in records) / count
  assert json.loads((tmp_path / 'summary.json').read_text())['n'] == count
  for record in records[16:]:
    first = records[int(record['id'][1:]) % 16]
    assert record['segments'] == first['segments'], 'greedy, whatever stands beside it'


def test_lost_questions_count_as_wrong(tiny_folder, tmp_path):
  _questions(tmp_path / 'q.jsonl', 16)
  config = tiny.configure(tiny_folder, 'eval')
  whole, records = _evaluate(config, tmp_path, tmp_path / 'q.jsonl')
  config.eval_retrieval.backend, config.eval_retrieval.retries = 'faulty', 0
  config.rollout.attempts = 1
  faulty = tiny.make_faulty(tiny_folder, 'eval_faulty', error=0.4)
  config.retrieval.index = str(faulty['retrieval__index'])
  summary, records = _evaluate(config, tmp_path / 'lost', tmp_path / 'q.jsonl')
  lost = [r for r in records if r['status'] == 'infra']
  assert summary['n'] == 16 and summary['n_infra'] == len(lost) > 0
  right = sum(r['rewards']['em'] for r in records if r['status'] != 'infra')
  assert summary['em'] == right / 16 < whole['em']


def test_no_answer_scores_zero_whatever_the_prompt_says(tiny_folder, tmp_path):
  """The prompt gives a well-formed answer, the right one, and the policy says nothing."""
  config = tiny.configure(tiny_folder, 'eval')
  size = decoder.Size(vocab=360, layers=1, embed=16, heads=1, kv_heads=1, head_size=8, hidden=16)
  params = decoder.init(jax.random.key(1), size)
  tokenizer = tokenizer_lib.load(tiny_folder / 'tokenizer')
  checkpoint.save_policy(tmp_path / 'mute', size, params, tokenizer)
  (tmp_path / 'prompt.txt').write_text(
    '<think> x </think> <answer> \\boxed{ birch } </answer>\n{question}\n'
  )
  config.protocol.prompt = str(tmp_path / 'prompt.txt')
  _questions(tmp_path / 'q.jsonl', 1)
  summary, (record,) = _evaluate(
    config, tmp_path, tmp_path / 'q.jsonl', policy=str(tmp_path / 'mute')
  )
  assert 'birch' in record['segments'][0]['text'] and record['golden_answers'] == ['birch']
  assert record['answer'] is None and not any(record['rewards'].values())
  assert (summary['em'], summary['cover_em'], summary['f1']) == (0, 0, 0)
  assert summary['malformed'] == 1


def test_samples_give_pass_at_k_beside_the_greedy_score(tiny_folder, tmp_path):
  _questions(tmp_path / 'q.jsonl', 6)
  config = tiny.configure(tiny_folder, 'eval')
  summary, records = _evaluate(config, tmp_path, tmp_path / 'q.jsonl', samples=3)
  assert len(records) == summary['n'] == 6
  assert summary['pass@3_by_hops'].keys() == {'1', '2', '3'}
  assert all(0 <= share <= 1 for share in summary['pass@3_by_hops'].values())


@pytest.mark.slow
def test_difficulty_is_the_number_of_the_first_right_rollout(tiny_folder, tmp_path, capsys):
  _questions(tmp_path / 'q.jsonl', 16)
  out = tmp_path / 'labelled.jsonl'
  command = tiny.command('difficulty', tiny_folder, 'difficulty')
  flags = [f'--questions={tmp_path}/q.jsonl', f'--out={out}', '--samples=12']
  assert cli.main([*command, *flags]) == 0
  labelled = questions.read(out)
  assert [q.id for q in labelled] == [f'n{i}' for i in range(16)]
  assert all(q.metadata['hops'] == 1 + i % 3 for i, q in enumerate(labelled))
  needed = [q.metadata['rollouts_needed'] for q in labelled]
  assert all(n is None or 1 <= n <= 12 for n in needed) and 1 in needed
  bands = {n: q.metadata['difficulty'] for n, q in zip(needed, labelled)}
  expected = {n: 'difficult' if n is None else 'easy' if n < 10 else 'medium' for n in needed}
  assert bands == expected
  counts = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert sum(counts.values()) == 16
  assert counts['easy'] == sum(n is not None and n < 10 for n in needed)


def test_one_question_is_shown(tiny_folder, capfd):
  command = tiny.command('ask', tiny_folder, 'asked')
  assert cli.main([*command, '--question=What is near amber?']) == 0
  shown = capfd.readouterr().out
  for part in ('<search> amber </search>', '[ok]', '· amber', 'boxed{ birch }'):
    assert part in shown
  assert 'gold:' not in shown, 'nobody knows the answer'
