"""The pool of workers, with and without faults (a bad retriever loses and delays nothing)."""

import collections
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from jaxsearch import config
from jaxsearch.retrieval import journal as journals
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.backends import bm25, faulty
from jaxsearch.types import Outcome, SearchRequest, UserError

WORDS = (
  *('amber', 'birch', 'cedar', 'dune', 'ember', 'fjord'),
  *('grove', 'heath', 'islet', 'juniper', 'kelp', 'lagoon'),
)


@pytest.fixture(scope='module')
def index(tmp_path_factory):
  root = tmp_path_factory.mktemp('pool')
  with (root / 'corpus.jsonl').open('w') as file:
    for i, (a, b) in enumerate(zip(WORDS, WORDS[1:] + WORDS[:1])):
      file.write(json.dumps({'id': f'd{i}', 'contents': f'{a}\nThe {a} lies near {b}.'}) + '\n')
  bm25.build(str(root / 'corpus.jsonl'), str(root / 'index'))
  return root / 'index'


@pytest.fixture
def faults(index, tmp_path):
  """A function from faults to the folder of a faulty index."""

  def make(**faults):
    folder = tmp_path / 'faulty'
    shutil.copytree(index, folder, dirs_exist_ok=True)
    (folder / 'faults.json').write_text(json.dumps(faults))
    return str(folder)

  return make


def _requests(count):
  return [
    SearchRequest(f'0.{i}.0', i % 3, 0, (WORDS[i % 12],) * (1 + i % 2), 1 + i % 3, f'q{i}', 0.0, i)
    for i in range(count)
  ]


def _settings(folder, backend='faulty', **options):
  return config.Retrieval(backend=backend, index=str(folder), **options)


def _run(settings, requests, journal=None, limit_s=30.0):
  """Submits everything, polls until all is answered; (trajectory -> result, pool metrics)."""
  with pools.Pool(settings, journal) as pool:
    return _exchange(pool, requests, limit_s), pool.stats()


def _exchange(pool, requests, limit_s=30.0):
  for request in requests:
    pool.submit(request)
  return _collect(pool, requests, limit_s)


def _collect(pool, requests, limit_s=30.0):
  answers, end = [], time.monotonic() + limit_s
  while pool.pending and time.monotonic() < end:
    answers += pool.poll(1.0)
  assert sorted(r.trajectory for r, _ in answers) == sorted(r.trajectory for r in requests)
  assert pool.poll(0.1) == []
  return {request.trajectory: result for request, result in answers}


def _bare(results):
  """Results without what only measures time."""
  return {name: dataclasses.replace(r, latency_s=0.0) for name, r in results.items()}


def _direct(index, requests):
  results = bm25.open(_settings(index)).search(requests)
  return {request.trajectory: result for request, result in zip(requests, results)}


def _workers():
  alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
  return [p for p in alive if '_worker' in ' '.join(p.cmdline())]


def _gone(processes, within_s=5.0):
  _, alive = psutil.wait_procs(processes, timeout=within_s)
  return not alive


def test_answers_are_the_backends_own_whatever_the_number_of_workers(index, faults):
  requests = _requests(60)
  expected = _direct(index, requests)
  answers, metrics = _run(_settings(index, 'bm25'), requests)
  assert _bare(answers) == expected
  assert metrics['search/count'] == metrics['search/outcome/ok'] == 60
  assert 0 < metrics['search/latency_s/p50'] <= metrics['search/latency_s/p95']
  slow = _settings(faults(latency_s=[0.0, 0.3]), workers=3, batch=4)
  assert _bare(_run(slow, requests)[0]) == expected


def test_poll_wakes_up_for_an_answer_and_only_for_that(faults):
  with pools.Pool(_settings(faults(latency_s=[0.4, 0.4]))) as pool:
    start = time.monotonic()
    assert pool.poll(5.0) == []  # Nothing is pending.
    pool.submit(_requests(1)[0])
    assert pool.poll(0.05) == [] and pool.pending == 1
    [(_, result)] = pool.poll(20.0)
    assert time.monotonic() - start < 3.0 and pool.pending == 0
    assert 0.4 <= result.latency_s < 2.0
    assert pool.stats()['search/count'] == 1 and pool.stats()['search/count'] == 0


@pytest.mark.parametrize('queries', [(), ('amber', ' ')])
def test_a_missing_query_is_the_policys_fault(index, queries):
  [request] = _requests(1)
  answers, _ = _run(_settings(index, 'none'), [dataclasses.replace(request, queries=queries)])
  assert answers[request.trajectory].outcome is Outcome.BAD_QUERY


def test_the_controls_find_nothing_and_anything(index):
  requests = _requests(24)
  nothing, _ = _run(_settings('', 'none'), requests)
  assert {r.outcome for r in nothing.values()} == {Outcome.EMPTY}
  first, _ = _run(_settings(index, 'random'), requests)
  assert _bare(first) == _bare(_run(_settings(index, 'random', workers=2), requests)[0])
  assert all(len(r.documents[0]) == q.top_k for q, r in zip(requests, first.values()))
  assert len({d.id for r in first.values() for found in r.documents for d in found}) > 8


@pytest.mark.parametrize(
  'fault, outcome',
  [
    ('error', Outcome.ERROR),
    ('timeout', Outcome.TIMEOUT),
    ('overloaded', Outcome.OVERLOADED),
    ('raise', Outcome.ERROR),
    ('crash', Outcome.ERROR),
    ('miscount', Outcome.ERROR),
    ('nan', Outcome.ERROR),
    ('no_list', Outcome.ERROR),
    ('flood', Outcome.ERROR),
    ('huge', Outcome.ERROR),
  ],
)
def test_a_fault_has_its_outcome_and_harms_nobody_else(index, faults, fault, outcome):
  """Every fourth request or so meets the fault each time; the rest of its batch does not care."""
  requests, plan = _requests(24), {fault: 0.2}
  struck = {r.trajectory for r in requests if faulty.draw(plan, r.key)}
  assert 2 <= len(struck) <= 8
  answers, metrics = _run(_settings(faults(**plan), retries=0), requests)
  for name, expected in _direct(index, requests).items():
    if name in struck:
      assert answers[name].outcome is outcome and answers[name].message
      assert not answers[name].documents
    else:
      assert dataclasses.replace(answers[name], latency_s=0.0) == expected
  assert metrics[f'search/outcome/{outcome}'] == len(struck)
  assert (metrics['search/worker_restarts'] > 0) is (fault == 'crash')


@pytest.mark.parametrize('fault', ['error', 'raise', 'crash', 'miscount', 'nan'])
def test_a_passing_fault_is_retried(index, faults, fault):
  requests = _requests(12)
  answers, metrics = _run(_settings(faults(**{fault: 0.5, 'once': True})), requests)
  assert _bare(answers) == _direct(index, requests)
  assert metrics['search/retries'] > 0


def test_a_hanging_search_ends_at_its_deadline_and_delays_no_other(faults):
  requests, plan = _requests(12), {'hang': 0.2}
  struck = {r.trajectory for r in requests if faulty.draw(plan, r.key)}
  assert struck
  settings = _settings(faults(**plan), workers=1 + len(struck), batch=1, deadline_s=4.0, retries=1)
  answers, metrics = _run(settings, requests)
  for name, result in answers.items():
    if name in struck:
      assert result.outcome is Outcome.TIMEOUT and 3.5 < result.latency_s < 6.0
    else:
      assert result.outcome is Outcome.OK and result.latency_s < 2.0
  assert metrics['search/outcome/timeout'] == len(struck)


def test_a_passing_hang_is_cut_off_in_time_for_a_retry(index, faults):
  requests = _requests(6)
  settings = _settings(faults(hang=1.0, once=True), workers=1, deadline_s=8.0)
  answers, metrics = _run(settings, requests[:1])
  assert _bare(answers) == _direct(index, requests[:1])
  assert metrics['search/worker_restarts'] == 1


def test_what_no_worker_is_free_for_is_overload(faults):
  settings = _settings(faults(latency_s=[9.0, 9.0]), batch=1, deadline_s=1.0, retries=0)
  answers, _ = _run(settings, _requests(5))
  outcomes = collections.Counter(r.outcome for r in answers.values())
  assert outcomes == {Outcome.TIMEOUT: 1, Outcome.OVERLOADED: 4}
  assert all(r.latency_s < 3.0 for r in answers.values())


def test_random_latency_delays_each_request_by_its_own_only(faults):
  plan = {'latency_s': [0.0, 1.5]}
  answers, _ = _run(_settings(faults(**plan), workers=6, batch=1), _requests(6))
  excess = [r.latency_s - faulty.latency_s(plan, int(n.split('.')[1])) for n, r in answers.items()]
  assert all(0 <= e < 0.6 for e in excess)


def test_killed_workers_are_replaced_and_their_searches_answered(index, faults):
  requests = _requests(30)
  with pools.Pool(_settings(faults(latency_s=[0.2, 0.2]), workers=2, batch=8)) as pool:
    for process in _workers():
      process.kill()
    first = _exchange(pool, requests[:10])
    for request in requests[10:]:
      pool.submit(request)
    time.sleep(0.1)
    for process in _workers():
      process.kill()
    second = _collect(pool, requests[10:])
    assert _bare(first | second) == _direct(index, requests)
    assert pool.stats()['search/worker_restarts'] == 4


def test_when_no_worker_can_start_again_requests_still_end(index, tmp_path):
  folder = shutil.copytree(index, tmp_path / 'index')
  with pools.Pool(_settings(folder, 'bm25', deadline_s=2.0)) as pool:
    shutil.rmtree(folder)
    for process in _workers():
      process.kill()
    answers = _exchange(pool, _requests(3))
    assert all(r.outcome.is_infra and r.latency_s < 3.0 for r in answers.values())
    assert pool.stats()['search/worker_restarts'] > 1


@pytest.mark.parametrize('backend', ['bm25', 'random', 'faulty'])
def test_an_index_that_is_none_is_refused_at_the_start(backend, tmp_path):
  with pytest.raises(UserError, match='jaxsearch index'):
    pools.Pool(_settings(tmp_path / 'nowhere', backend, workers=2))
  assert _gone(_workers())


def test_an_unknown_backend_and_wrong_faults_are_refused(faults):
  with pytest.raises(UserError, match="Did you mean 'bm25'"):
    pools.Pool(_settings('', 'bm26'))
  with pytest.raises(UserError, match='eror'):
    pools.Pool(_settings(faults(eror=0.1)))


def test_closing_ends_the_workers_even_those_that_hang(faults):
  pool = pools.Pool(_settings(faults(hang=1.0), workers=2))
  pool.submit(_requests(1)[0])
  processes = _workers()
  assert len(processes) == 2 and pool.poll(0.2) == []
  pool.close()
  assert _gone(processes)
  pool.close()


def test_the_journal_answers_before_the_retriever_does(index, faults, tmp_path):
  requests = _requests(8)
  journal = journals.Journal(tmp_path / 'journal')
  journal.open(3)
  folder = faults(timeout=0.4)
  first, before = _run(_settings(folder, retries=0), requests, journal)
  assert before['search/outcome/timeout'] > 0 and before['search/from_journal'] == 0
  journal.open(3)
  again, after = _run(_settings(index, 'bm25'), requests + _requests(10)[8:], journal)
  assert {name: again[name] for name in first} == first
  assert after['search/from_journal'] == 8 and len(again) == 10


def test_a_journal_that_cannot_be_written_stops_the_run(index, tmp_path):
  journal = journals.Journal(tmp_path)
  with pools.Pool(_settings(index, 'none'), journal) as pool:  # No step is open.
    pool.submit(_requests(1)[0])
    with pytest.raises(RuntimeError, match='pool failed'):
      pool.poll(5.0)


_PARENT = """
import sys, time
from jaxsearch import config
from jaxsearch.retrieval import pool
assert not [m for m in sys.modules if m.startswith('jax') and not m.startswith('jaxsearch')]
import jax.numpy
from jaxsearch.types import SearchRequest
retrieval = pool.Pool(config.Retrieval(backend='faulty', index=sys.argv[1], workers=2))
retrieval.submit(SearchRequest('0.0.0', 0, 0, ('amber',), 1, 'q', 0.0, 1))
time.sleep(0.3)
print('up', flush=True)
time.sleep(600)
"""


def test_workers_have_no_jax_and_die_with_a_killed_parent(faults, tmp_path):
  """The parent's main program imports JAX, as the trainer does, and one worker hangs."""
  (tmp_path / 'parent.py').write_text(_PARENT)
  command = [sys.executable, str(tmp_path / 'parent.py'), faults(hang=1.0)]
  root = str(pathlib.Path(pools.__file__).parents[2])
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={'PYTHONPATH': root}) as p:
    assert p.stdout.readline() == 'up\n'
    workers = psutil.Process(p.pid).children()
    assert len(workers) == 2
    for worker in workers:
      files = [m.path for m in worker.memory_maps()]
      assert any('numpy' in f for f in files) and not any('jaxlib' in f for f in files)
    p.kill()
  assert _gone(workers)
