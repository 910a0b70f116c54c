"""The pool of workers, with and without faults (a bad retriever loses and delays nothing)."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

from jaxsearch import config
from jaxsearch.retrieval import journal as journals
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.backends import bm25, faulty
from jaxsearch.retrieval.indexing import build
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
  build.build(str(root / 'corpus.jsonl'), str(root / 'index'))
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
  return [p for p in alive if 'pooling.worker' in ' '.join(p.cmdline())]


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


def test_overload_ends_no_healthy_worker(faults):
  """Twice as many as can be answered in time: one half is answered, the other refused."""
  settings = _settings(faults(latency_s=[0.1, 0.1]), batch=1, deadline_s=4.0, window_ms=0.0)
  answers, metrics = _run(settings, _requests(80))
  outcomes = collections.Counter(r.outcome for r in answers.values())
  assert metrics['search/worker_restarts'] == 0
  assert outcomes[Outcome.OK] >= 25 and outcomes[Outcome.OVERLOADED] >= 35


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


# --- Who is asked, and who waits ------------------------------------------------------------------


def test_a_late_search_is_asked_of_an_idle_worker_too(index, faults):
  """Every twentieth or so takes 15 times as long, the first time it is asked."""
  plan = {'slow': 0.05, 'slow_times': 15, 'latency_s': [0.02, 0.02], 'once': True}
  requests = _requests(120)
  slow = {r.trajectory for r in requests[40:] if faulty.draw(plan, r.key)}
  assert len(slow) >= 3
  for hedge in (0.0, 0.1):
    shutil.rmtree(pathlib.Path(faults(**plan)) / 'seen', ignore_errors=True)
    settings = _settings(faults(**plan), workers=4, hedge=hedge, window_ms=0.0)
    with pools.Pool(settings) as pool:
      answers = {}
      for request in requests:
        answers |= _exchange(pool, [request])
      metrics = pool.stats()
    assert _bare(answers) == _direct(index, requests)
    longest = max(answers[name].latency_s for name in slow)
    assert (longest >= 0.3) if hedge == 0 else (longest < 0.2)
    assert (metrics['search/hedges'] > 0) is (hedge > 0)
    assert metrics['search/hedges'] <= 2 * hedge * len(requests)


def test_who_has_waited_longest_is_asked_first(faults):
  """The first request fails once; it does not go behind those that came after it."""
  plan = {'latency_s': [0.15, 0.15], 'error': 0.2, 'once': True}
  requests = [r for r in _requests(60) if not faulty.draw(plan, r.key)][:9]
  [late] = [r for r in _requests(60) if faulty.draw(plan, r.key)][:1]
  with pools.Pool(_settings(faults(**plan), batch=1)) as pool:
    for request in [late, *requests]:
      pool.submit(request)
    order = []
    while pool.pending:
      order += [request.trajectory for request, _ in pool.poll(1.0)]
  assert order.index(late.trajectory) <= 3


def test_a_request_waits_for_company_no_longer_than_the_window(faults):
  plan = {'latency_s': [0.5, 0.5]}
  for window_ms, least, most in ((0.0, 0.8, 2.0), (100.0, 0.5, 0.8)):
    with pools.Pool(_settings(faults(**plan), window_ms=window_ms)) as pool:
      for request in _requests(5):
        pool.submit(request)
        time.sleep(0.01)
      answers = _collect(pool, _requests(5))
    assert least < max(r.latency_s for r in answers.values()) < most


def test_processes_stay_on_their_cores_and_within_their_memory(index, faults):
  requests = _requests(4)
  settings = _settings(faults(hoard=1.0), retries=0, cores='0', worker_gib=2.0)
  with pools.Pool(settings) as pool:
    [worker] = _workers()
    assert worker.cpu_affinity() == [0]
    answers = _exchange(pool, requests)
    assert {r.outcome for r in answers.values()} == {Outcome.ERROR}
    assert all('MemoryError' in r.message for r in answers.values())
    assert pool.stats()['search/worker_restarts'] == 0
    assert pool.ready() == {'search': 1}
  free = _settings(faults(hoard=1.0), retries=0)
  assert _bare(_run(free, requests)[0]) == _direct(index, requests)


@pytest.mark.parametrize(
  'cores, told',
  [('0-', 'such as'), ('3-1', 'such as'), ('0,0', 'each named once'), ('999', 'may use the cores')],
)
def test_cores_that_are_not_there_are_refused(index, cores, told):
  with pytest.raises(UserError, match=told):
    pools.Pool(_settings(index, 'bm25', cores=cores))
  with pytest.raises(UserError, match='1 cores for 2 processes'):
    pools.Pool(_settings(index, 'bm25', cores='0', workers=2))


def test_the_metrics_say_where_time_went_and_what_failed(faults):
  requests, plan = _requests(40), {'latency_s': [0.02, 0.02], 'timeout': 0.3, 'raise': 0.1}
  kinds = collections.Counter(faulty.draw(plan, r.key) for r in requests)
  _, metrics = _run(_settings(faults(**plan), batch=1, retries=1), requests)
  assert metrics['search/failures/timeout'] == 2 * kinds['timeout'] > 0
  assert metrics['search/failures/raised'] == 2 * kinds['raise'] > 0
  for stage in ('latency', 'queue', 'search'):
    times = [metrics[f'search/{stage}_s/{name}'] for name in ('p50', 'p95', 'p99', 'max')]
    assert times == sorted(times) and times[0] > 0
  assert 0.02 <= metrics['search/search_s/p50'] < 0.1
  assert metrics['search/queue_s/max'] > 0.3  # Of one worker, asked one by one.


# --- The cache ------------------------------------------------------------------------------------


def _again(requests):
  """The same questions, asked by others."""
  return [dataclasses.replace(r, trajectory=f'1{r.trajectory}', key=r.key + 1) for r in requests]


def test_what_was_asked_before_is_not_searched_again(index):
  requests = _requests(24)
  different = len({(r.queries, r.top_k) for r in requests})
  expected = _direct(index, requests)
  with pools.Pool(_settings(index, 'bm25')) as pool:
    assert _bare(_exchange(pool, requests)) == expected
    first = pool.stats()
    again = _exchange(pool, _again(requests))
    second = pool.stats()
    wider = [dataclasses.replace(r, top_k=r.top_k + 1) for r in requests]
    assert _bare(_exchange(pool, wider)) == _direct(index, wider)
  assert first['search/from_cache'] + first['search/coalesced'] == 24 - different > 0
  assert {name[1:]: r for name, r in _bare(again).items()} == expected
  assert second['search/from_cache'] == 24 and 'search/search_s/p50' not in second
  _, without = _run(_settings(index, 'bm25', cache_queries=0), requests + _again(requests))
  assert without['search/from_cache'] == without['search/coalesced'] == 0


def test_a_search_in_flight_is_shared_but_not_its_failure(index, faults):
  """It is asked once for all; where it fails, those who waited for it ask themselves."""
  requests = [dataclasses.replace(r, queries=('amber',), top_k=1) for r in _requests(8)]
  expected = _direct(index, requests)
  slow = _settings(faults(latency_s=[0.3, 0.3], cached=True), workers=2)
  answers, metrics = _run(slow, requests)
  assert _bare(answers) == expected and metrics['search/coalesced'] == 7
  plan = {'latency_s': [0.1, 0.1], 'error': 0.3, 'cached': True}
  struck = [r for r in _requests(40) if faulty.draw(plan, r.key)][:1]
  fine = [r for r in _requests(40) if not faulty.draw(plan, r.key)][:3]
  asked = [dataclasses.replace(r, queries=('amber',), top_k=1) for r in struck + fine]
  answers, metrics = _run(_settings(faults(**plan), retries=0), asked)
  assert answers[asked[0].trajectory].outcome is Outcome.ERROR
  assert {answers[r.trajectory].outcome for r in asked[1:]} == {Outcome.OK}
  assert metrics['search/coalesced'] == 2


def test_those_who_share_a_search_keep_their_own_deadlines(faults):
  requests = [dataclasses.replace(r, queries=('amber',), top_k=1) for r in _requests(3)]
  settings = _settings(faults(hang=1.0, cached=True), deadline_s=1.0, retries=0)
  answers, _ = _run(settings, requests)
  assert {r.outcome for r in answers.values()} == {Outcome.TIMEOUT}
  assert all(0.9 < r.latency_s < 2.0 for r in answers.values())


def test_a_cache_file_serves_the_next_run_of_the_same_index_only(index, tmp_path):
  requests, file = _requests(12), str(tmp_path / 'deep' / 'answers.sqlite')
  settings = _settings(index, 'bm25', cache=file, cache_queries=2)
  assert _run(settings, requests)[1]['search/from_cache'] < 12
  answers, metrics = _run(settings, requests)
  assert _bare(answers) == _direct(index, requests) and metrics['search/from_cache'] == 12
  corpus = tmp_path / 'other.jsonl'
  corpus.write_text(json.dumps({'id': 'x', 'contents': 'amber\nAnother amber.'}) + '\n')
  build.build(str(corpus), str(tmp_path / 'other'))
  other = _settings(tmp_path / 'other', 'bm25', cache=file)
  [result] = _run(other, requests[:1])[0].values()
  assert [d.id for d in result.documents[0]] == ['x']


def test_an_index_that_is_changed_under_a_pool_ends_it(index, tmp_path):
  """Or answers of two indexes would mix, and be kept as those of one."""
  folder = shutil.copytree(index, tmp_path / 'index')
  with pools.Pool(_settings(folder, 'bm25', workers=2)) as pool:
    assert pool.identity
    _exchange(pool, _requests(4))
    (tmp_path / 'other.jsonl').write_text('{"id": "x", "contents": "amber\\nAnother amber."}\n')
    build.build(str(tmp_path / 'other.jsonl'), str(folder))
    _workers()[0].kill()
    with pytest.raises(UserError, match='has changed while it ran'):
      for request in _again(_requests(200)):
        pool.submit(request)
        time.sleep(0.05)
        pool.poll(0.0)


def test_a_broken_cache_file_is_refused_and_a_broken_answer_searched_again(index, tmp_path):
  requests, file = _requests(12), tmp_path / 'answers.sqlite'
  settings = _settings(index, 'bm25', cache=str(file))
  _run(settings, requests)
  with contextlib.closing(sqlite3.connect(file)) as damaged, damaged:
    damaged.execute('UPDATE answers SET documents = "[[["')
  answers, metrics = _run(settings, requests)
  assert _bare(answers) == _direct(index, requests)
  with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as busy:
    busy.execute('BEGIN EXCLUSIVE')
    answers, _ = _run(_settings(index, 'bm25', cache=str(file), cache_queries=0), requests)
    assert _bare(answers) == _direct(index, requests)
  file.write_bytes(b'no database' * 100)
  with pytest.raises(UserError, match='retrieval.cache'):
    pools.Pool(settings)
  assert _gone(_workers())


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
