"""Figures of a step worked by hand, and a metrics file that forgets a lost continuation."""

import json

import numpy as np
import pytest

from jaxsearch import metrics
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
)


def _turn(queries, outcome=Outcome.OK, found=(), shown=None):
  documents = tuple(Document(name, name, 'text') for name in found)
  shown = len(documents) if shown is None else shown
  return Turn(tuple(queries), (documents,), shown, outcome, 0.1, 2)


def _trajectory(position, sample, *, status=Status.EOS, policy=10, observed=0, turns=(), **rewards):
  gold = {'hops': 2, 'supporting_documents': ['g1', 'g2']}
  question = Question(f'q{position}', 'Who?', ('Ada',), gold if position == 0 else {})
  segments = (
    Segment(Kind.PROMPT, np.zeros(5, np.int32)),
    Segment(Kind.POLICY, np.zeros(policy, np.int32), np.zeros(policy, np.float32)),
    Segment(Kind.OBSERVATION, np.zeros(observed, np.int32)),
  )
  task = Task(question, position, sample, step=3)
  return Trajectory(
    task, status, (Context(segments, tuple(turns), owners=(sample,)),), rewards=rewards
  )


@pytest.fixture
def values():
  return metrics.rollout_metrics(
    [
      _trajectory(0, 0, policy=10, reward=1.0, em=1.0, f1=1.0, format=1.0, observed=30, turns=[
        _turn(['a'], found=['g1', 'x']),
        _turn(['b'], found=['x', 'g2'], shown=1),
        _turn(['a'], Outcome.EMPTY),
      ]),
      _trajectory(0, 1, policy=20, reward=0.1, em=0.0, f1=0.2, format=1.0, turns=[
        _turn([], Outcome.BAD_QUERY),
      ]),
      _trajectory(1, 0, policy=30, reward=0.0, em=0.0, f1=0.0, format=0.0),
      _trajectory(1, 1, policy=40, reward=0.0, em=0.0, f1=0.0, format=0.0,
                  status=Status.POLICY_TOKEN_CAP),
      _trajectory(1, 2, policy=500, status=Status.INFRA, turns=[_turn(['z'], Outcome.TIMEOUT)]),
    ]
  )  # fmt: skip


def test_rewards_and_groups(values):
  assert values['reward/mean'] == pytest.approx(1.1 / 4)
  assert (values['reward/max'], values['reward/min']) == (1.0, 0.0)
  assert values['reward/em/mean'] == 0.25 and values['reward/f1/mean'] == pytest.approx(0.3)
  assert values['group/rollouts'] == 5
  assert values['group/frac_zero_std'] == 0.5  # The second, once its lost row is out.
  assert values['group/frac_all_wrong'] == 0.5 and values['group/frac_all_correct'] == 0.0


def test_searches(values):
  assert values['search/calls_mean'] == 1.0 and values['search/calls_max'] == 3
  assert values['search/frac_no_search'] == 0.5
  assert values['search/empty_query_rate'] == 0.25
  assert values['search/duplicate_query_rate'] == pytest.approx(1 / 3)
  assert values['search/empty_result_rate'] == 0.25
  assert values['search/truncated_obs_rate'] == 0.25
  assert values['search/valid_action_ratio'] == (3 + 2) / (4 + 4)
  assert values['search/gold_in_docs_rate'] == 0.25  # g1 of (g1, g2); g2 was found, not shown.
  assert values['search/outcome/ok'] == 2 and values['search/outcome/bad_query'] == 1


def test_episodes_and_lengths(values):
  ends = {name: values[f'episode/termination/{name}'] for name in ('answer', 'invalid', 'infra')}
  assert ends == {'answer': 0.4, 'invalid': 0.2, 'infra': 0.2}
  assert values['episode/termination/token_cap'] == 0.2
  assert values['episode/infra_by_searches/1'] == 0.2
  assert values['episode/turns_mean'] == 2.0 and values['episode/finish_ratio'] == 0.75
  assert values['length/policy_tokens_mean'] == 25 and values['length/policy_tokens_max'] == 40
  assert values['length/observation_share'] == 30 / 130
  assert values['length/clip_ratio'] == 0.25 and values['length/total_max'] == 45


def test_nothing_to_measure_is_finite():
  lost = _trajectory(0, 0, status=Status.INFRA)
  for trajectories in ([], [lost]):
    assert np.isfinite(list(metrics.rollout_metrics(trajectories).values())).all()


def test_a_resumed_run_forgets_the_lost_continuation(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  for step in range(5):
    writer.write(step, {'reward/mean': step / 4, 'val/em': np.float32(0.5)})
  writer.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 5, "rew')  # Killed while it wrote.
  writer = metrics.MetricWriter(tmp_path, resume_step=3)
  writer.write(3, {'reward/mean': 9.0})
  writer.close()
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert lines == metrics.read(tmp_path)
  assert [line['step'] for line in lines] == [0, 1, 2, 3]
  assert [line['reward/mean'] for line in lines] == [0, 0.25, 0.5, 9.0]
  assert list((tmp_path / 'tensorboard').iterdir())


def test_progress_is_one_line_of_what_is_known():
  line = metrics.progress(3, 40, {'reward/mean': 0.51, 'timing_s/step': 2.04, 'other': 1.0})
  assert line == 'step    3/40  reward 0.510  2.0 s'


def test_figures_of_several_hosts_become_one():
  hosts = [
    {
      'timing_s/gen/wait': 1.0,
      'perf/occupancy': 0.5,
      'search/count': 3.0,
      'search/outcome/ok': 3.0,
    },
    {
      'timing_s/gen/wait': 2.0,
      'perf/occupancy': 1.0,
      'search/count': 4.0,
      'search/latency_s/p95': 9,
    },
  ]
  assert metrics.over_hosts(hosts) == {
    'timing_s/gen/wait': 2.0,
    'perf/occupancy': 0.75,
    'search/count': 7.0,
    'search/outcome/ok': 3.0,
    'search/latency_s/p95': 9.0,
  }
