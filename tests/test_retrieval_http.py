"""The backend `http` against servers of other people's protocols, well and badly behaved."""

import asyncio
import contextlib
import email.utils
import math
import time

import fake_retriever
import pytest

from jaxsearch import config
from jaxsearch.retrieval import failures
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.backends import http
from jaxsearch.retrieval.http import calls as http_calls
from jaxsearch.retrieval.http import replicas as replicas_lib
from jaxsearch.retrieval.http import routing
from jaxsearch.types import Outcome, SearchRequest, UserError

WORDS = (
  *('amber', 'birch', 'cedar', 'dune', 'ember', 'fjord'),
  *('grove', 'heath', 'islet', 'juniper', 'kelp', 'lagoon'),
)
DOCUMENTS = [
  (str(n), a.title(), f'the {a} lies near {b}')
  for n, (a, b) in enumerate(zip(WORDS, WORDS[1:] + WORDS[:1]))
]


@pytest.fixture
def serve():
  """A function that starts a server which ends with the test."""
  with contextlib.ExitStack() as stack:
    yield lambda documents=DOCUMENTS, *rest, **options: stack.enter_context(
      fake_retriever.Server(documents, *rest, **options)
    )


@pytest.fixture
def connect():
  """A function that opens the backend, which is closed with the test."""
  with contextlib.ExitStack() as stack:

    def connect(url, **options):
      options = {'deadline_s': 20.0, **options}
      backend = http.open(config.Retrieval(backend='http', url=url, **options))
      stack.callback(backend.close)
      return backend

    yield connect


def _request(*queries, top_k=3, key=0):
  return SearchRequest(f'0.{key}.0', 0, 0, queries, top_k, 'q', 0.0, key)


def _ask(backend, *queries, top_k=3):
  [result] = backend.search([_request(*queries, top_k=top_k)])
  return result


def _ids(result):
  return [[document.id for document in found] for found in result.documents]


@pytest.mark.parametrize(
  ('peer', 'dialect', 'path', 'calls'),
  [
    ('search_r1', 'search_r1', '/retrieve', 1),
    ('search_r1_bm25', 'search_r1', '/retrieve', 1),
    ('search_r1_online', 'search_r1', '/retrieve', 1),
    ('skyrl_gym', 'skyrl_gym', '/retrieve', 3),
    ('research', 'research', '/batch_search', 1),
    ('r1_searcher', 'r1_searcher', '/queries', 1),
    ('zerosearch', 'zerosearch', '/retrieve', 3),
  ],
)
def test_every_dialect_is_spoken_to_a_server_that_knows_no_other(
  serve, connect, peer, dialect, path, calls
):
  server = serve(dialect=peer)
  result = _ask(connect(server.url, dialect=dialect), 'the cedar', 'fjord', 'xylem', top_k=2)
  assert result.outcome is Outcome.OK
  assert [[(d.title, d.text) for d in found] for found in result.documents] == [
    [('Birch', 'the birch lies near cedar'), ('Cedar', 'the cedar lies near dune')],
    [('Ember', 'the ember lies near fjord'), ('Fjord', 'the fjord lies near grove')],
    [],
  ]
  assert [asked for asked, _ in server.asked] == [path] * calls
  scores = [[d.score for d in found] for found in result.documents]
  if peer in ('search_r1', 'search_r1_bm25', 'research', 'skyrl_gym'):
    assert scores[0] == [2 + 1 / 10, 2 + 1 / 11] and not result.message
  else:
    assert scores[:2] == [[1.0, 0.5]] * 2
  ids = _ids(result)
  assert (ids[0] == ['1', '2']) is (peer in ('search_r1', 'research', 'skyrl_gym'))
  again = _ask(connect(server.url, dialect=dialect), 'birch fjord', top_k=9)
  assert set(ids[0]) & set(_ids(again)[0]) == {ids[0][0]}  # A document has one id, whoever asks.


def test_a_server_without_scores_is_noted_where_it_should_have_some(serve, connect):
  backend = connect(serve(dialect='search_r1_online').url)
  assert failures.kind(_ask(backend, 'cedar').message) == 'missing_scores'
  assert not _ask(connect(serve(dialect='zerosearch').url, dialect='zerosearch'), 'cedar').message


@pytest.mark.parametrize(
  ('fault', 'outcome', 'kind'),
  [
    ('fewer_lists', Outcome.ERROR, 'wrong_count'),
    ('more_lists', Outcome.ERROR, 'wrong_count'),
    ('one_score_missing', Outcome.ERROR, 'missing_score'),
    ('nan_score', Outcome.ERROR, 'bad_score'),
    ('text_score', Outcome.ERROR, 'bad_score'),
    ('null_document', Outcome.ERROR, 'wrong_shape'),
    ('other_field', Outcome.ERROR, 'wrong_shape'),
    ('half_a_pair', Outcome.ERROR, 'bad_text'),
    ('big_document', Outcome.ERROR, 'too_large'),
    ('flood', Outcome.ERROR, 'flood'),
    ('broken_json', Outcome.ERROR, 'broken_json'),
    ('html', Outcome.ERROR, 'html_page'),
    ('html_502', Outcome.ERROR, 'http_502'),
    ('500', Outcome.ERROR, 'http_500'),
    ('404', Outcome.ERROR, 'http_404'),
    ('422', Outcome.ERROR, 'http_422'),
    ('429_for_long', Outcome.OVERLOADED, 'http_429'),
    ('429_without', Outcome.OVERLOADED, 'http_429'),
    ('503', Outcome.OVERLOADED, 'http_503'),
    ('504', Outcome.TIMEOUT, 'http_504'),
    ('reset', Outcome.ERROR, 'reset'),
    ('hang_up', Outcome.ERROR, 'reset'),
    ('half_body', Outcome.ERROR, 'cut_off'),
    ('not_http', Outcome.ERROR, 'bad_http'),
    ('silence', Outcome.TIMEOUT, 'timeout'),
  ],
)
def test_a_fault_has_its_outcome_and_kind_and_harms_nobody_else(
  serve, connect, fault, outcome, kind
):
  """Alone, and in one call with seven others, which are then asked again alone."""
  server = serve()
  backend = connect(server.url, retries=0, deadline_s=2.5)
  requests = [_request(word, key=n) for n, word in enumerate(WORDS[:8])]
  requests[3] = _request(f'!{fault} dune', 'ember', key=3)
  start = time.monotonic()
  [alone] = backend.search(requests[3:4])
  assert time.monotonic() - start < 2.5 and len(server.asked) == 1
  assert alone.outcome is outcome and not alone.documents
  assert failures.kind(alone.message) == kind and len(alone.message) < 1000
  if outcome is not Outcome.ERROR:
    return  # What time may mend is the pool's to retry.
  results = backend.search([requests[3], *requests[:3], *requests[4:]])
  assert len(server.asked) == 1 + 1 + 8
  assert failures.kind(results[0].message) == kind
  for n, result in zip((0, 1, 2, 4, 5, 6, 7), results[1:]):
    assert _ids(result) == [sorted({str(n), str((n - 1) % 12)}, key=int)]


@pytest.mark.parametrize('fault', ['503', '504', '429_without'])
def test_what_time_may_mend_harms_nobody_else_either(serve, fault):
  """The pool asks alone whatever failed in company."""
  settings = config.Retrieval(backend='http', url=serve().url, retries=1, deadline_s=6.0)
  requests = [_request(word, key=n) for n, word in enumerate(WORDS[:6])]
  requests[3] = _request(f'!{fault} dune', key=3)
  answers = _exchange(settings, requests)
  struck = answers.pop(3)
  assert struck.outcome in (Outcome.OVERLOADED, Outcome.TIMEOUT) and not struck.documents
  assert {result.outcome for result in answers.values()} == {Outcome.OK}
  assert all(str(n) in _ids(result)[0] for n, result in answers.items())


def _exchange(settings, requests):
  """Answers of a pool by the keys of their requests."""
  answers = {}
  with pools.Pool(settings) as pool:
    for request in requests:
      pool.submit(request)
    while pool.pending:
      answers |= {request.key: result for request, result in pool.poll(5.0)}
  return answers


def test_requests_of_a_batch_share_calls_and_get_each_their_own(serve, connect):
  server, single = serve(), serve()
  requests = [
    _request(*(WORDS[(n + k) % 12] for k in range(1 + n % 3)), top_k=1 + n % 2, key=n)
    for n in range(12)
  ]
  requests[5] = _request('xylem', key=5, top_k=2)
  together = connect(server.url).search(requests)
  assert len(server.asked) == 2 and {r.outcome for r in together} == {Outcome.OK, Outcome.EMPTY}
  backend = connect(single.url)
  assert together == [backend.search([request])[0] for request in requests]
  assert together[5].outcome is Outcome.EMPTY and len(single.asked) == 12


def test_short_lists_and_documents_without_scores_are_answers(serve, connect):
  backend = connect(serve().url)
  assert _ids(_ask(backend, '!short_list the', 'the')) == [['0'], ['0']]
  bare = _ask(backend, '!no_scores the')
  assert bare.outcome is Outcome.OK and [d.score for d in bare.documents[0]] == [1, 1 / 2, 1 / 3]


def test_what_no_wait_can_mend_is_no_message_of_a_backend():
  assert failures.kind('http_500: http://x: y') == 'http_500'
  for message in ('', 'ValueError: 2 results', 'the worker did not answer in time', ': x'):
    assert failures.kind(message) == 'other'


def test_a_server_that_says_when_is_asked_again_then_and_not_before(serve, connect):
  server = serve()
  start = time.monotonic()
  result = _ask(connect(server.url), '!429_once amber')
  assert result.outcome is Outcome.OK and len(server.asked) == 2
  assert 1.0 <= time.monotonic() - start < 2.5
  date = email.utils.formatdate(time.time() + 100, usegmt=True)
  assert 98 < http_calls._again_s(_Headers(date)) < 101
  assert http_calls._again_s(_Headers('soon')) is None


class _Headers:
  """As much of a response as the reading of its headers needs."""

  def __init__(self, after):
    self.headers = {'Retry-After': after}


def test_the_pool_retries_what_may_pass_and_a_search_survives(serve):
  faults = ('reset', 'half_body', 'html', 'nan_score', '500', 'hang_up', 'big_document')
  server = serve()
  settings = config.Retrieval(backend='http', url=server.url, retries=2)
  requests = [_request(f'!{fault}_once {WORDS[n]}', key=n) for n, fault in enumerate(faults)]
  answers = _exchange(settings, requests)
  assert {result.outcome for result in answers.values()} == {Outcome.OK}
  assert all(str(n) in _ids(result)[0] for n, result in answers.items())


def test_connections_are_kept(serve, connect):
  server = serve()
  backend = connect(server.url)
  for word in WORDS:
    assert _ask(backend, word).outcome is Outcome.OK
  assert len(server.asked) == 12 and len(server.open) <= 2  # One was for /health.


def test_a_dead_replica_is_passed_over_and_then_left_alone(serve, connect):
  dead, alive = serve(), serve()
  dead.close()
  backend = connect(f'{dead.url}/retrieve, {alive.url}/retrieve')
  for n, word in enumerate(WORDS * 3):
    assert str(n % 12) in _ids(_ask(backend, word))[0]
  dead_one = next(r for r in backend._shards[0].replicas if r.url.startswith(dead.url))
  assert dead_one.free_at(time.monotonic()) > time.monotonic()


def test_documents_that_cannot_be_used_do_not_speak_against_the_server(serve, connect):
  backend = connect(serve().url)
  for _ in range(9):
    assert _ask(backend, '!half_a_pair amber').outcome is Outcome.ERROR
  assert _ask(backend, 'amber').outcome is Outcome.OK
  assert backend._shards[0].free_at(0.0) == 0.0
  for _ in range(5):
    assert _ask(backend, '!500 amber').outcome is Outcome.ERROR
  assert backend._shards[0].free_at(0.0) > 0.0


def test_replicas_share_the_work(serve, connect):
  servers = [serve() for _ in range(3)]
  backend = connect(','.join(server.url for server in servers))
  for _ in range(3):
    _ask(backend, 'amber')
  assert [len(server.asked) for server in servers] == [1, 1, 1]  # In turn, where all are idle.
  backend.search([_request(word, key=n) for n, word in enumerate(WORDS)])
  assert [len(server.asked) for server in servers] == [2, 2, 2]


def test_shards_merge_to_the_whole_and_a_missing_one_is_told(serve, connect):
  whole = serve()
  shards = [serve(DOCUMENTS[n::3]) for n in range(3)]
  backend = connect(';'.join(s.url for s in shards))
  queries = ('the', 'cedar near', 'lies fjord kelp', 'xylem')
  expected = _ask(connect(whole.url), *queries, top_k=4)
  assert _ask(backend, *queries, top_k=4) == expected
  shards[1].close()
  part = _ask(backend, *queries, top_k=4)
  assert part.outcome is Outcome.PARTIAL and failures.kind(part.message) in ('connect', 'reset')
  left = [
    [d for d in found if int(d.id) % 3 != 1]
    for found in _ask(connect(whole.url), 'the', top_k=9).documents
  ]
  assert list(part.documents[0]) == left[0][:4]
  company = backend.search([_request('xylem'), _request('the')])
  assert [r.outcome for r in company] == [Outcome.ERROR, Outcome.PARTIAL]
  lost = _ask(backend, 'xylem')
  assert lost.outcome is Outcome.ERROR and not lost.documents
  for shard in (shards[0], shards[2]):
    shard.close()
  assert _ask(backend, 'the').outcome is Outcome.ERROR


def test_replicas_of_different_indexes_are_refused_and_one_that_changes_is_not_believed(
  serve, connect
):
  old = [serve(health={'build': 'bm25:1'}, build='bm25:1') for _ in range(2)]
  new = serve(health={'build': 'bm25:2'}, build='bm25:2')
  plain = serve()
  assert connect(f'{old[0].url},{old[1].url}').identity == 'http:search_r1:bm25:1'
  assert connect(f'{old[0].url};{new.url}').identity == 'http:search_r1:bm25:1;bm25:2'
  assert connect(f'{old[0].url};{plain.url}').identity == ''
  with pytest.raises(UserError, match='bm25:2'):
    connect(f'{old[0].url},{new.url}')
  backend = connect(old[0].url)
  old[0].build = 'bm25:3'
  result = _ask(backend, 'amber')
  assert result.outcome is Outcome.ERROR and failures.kind(result.message) == 'other_build'


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    ({'url': 'localhost:8000'}, 'is no address'),
    ({'url': 'http://127.0.0.1:1'}, 'No retrieval server answers'),
    ({'url': 'http://127.0.0.1:1', 'dialect': 'search-r1'}, "Did you mean 'search_r1'"),
  ],
)
def test_an_address_where_nobody_is_and_an_unknown_dialect_are_refused(options, said):
  with pytest.raises(UserError, match=said):
    http.open(config.Retrieval(backend='http', **options))


# Replicas on a clock of our own.


def test_the_replica_with_the_fewest_calls_is_asked():
  shard = replicas_lib.Shard(['a', 'b'])
  busy = shard.choose(0.0)
  for _ in range(3):
    busy.begin()
  for _ in range(3):
    other = shard.choose(0.0)
    assert other is not busy
    other.begin()
  assert {shard.choose(0.0), shard.choose(0.0)} == {busy, other}
  assert shard.choose(0.0, {busy, other}) is None


def _end(replica, now, fine):
  replica.end(now, fine, replica.begin())


def test_failures_in_a_row_open_the_circuit_and_one_trial_closes_it():
  replica = replicas_lib.Replica('http://x')
  for _ in range(4):
    _end(replica, 0.0, False)
  _end(replica, 0.0, True)
  for _ in range(4):
    _end(replica, 0.0, False)
  assert replica.free_at(0.0) == 0.0
  stale = [replica.begin(), replica.begin()]
  _end(replica, 0.0, False)
  first = replica.free_at(0.0)
  assert 0.5 <= first <= 1.5
  replica.end(0.4, False, stale[0])  # Sent before, so it is no news.
  assert replica.free_at(0.4) == first
  assert replica.begin() and replica.free_at(2.0) == math.inf  # One trial at a time.
  replica.end(2.0, True, stale[1])
  assert replica.free_at(2.0) == math.inf
  replica.end(2.0, False, True)
  assert 3.0 <= replica.free_at(2.0) <= 5.0
  assert replica.begin()
  replica.end(6.0, None, True)  # Cancelled: the next call is the trial.
  assert replica.free_at(6.0) == 6.0 and replica.begin()
  replica.end(6.0, True, True)
  assert replica.free_at(6.0) == 6.0 and not replica.begin()


def test_a_bad_share_opens_the_circuit_too():
  replica = replicas_lib.Replica('http://x')
  for n in range(18):
    assert replica.free_at(0.0) == 0.0
    _end(replica, 0.0, n % 2 == 0)
  _end(replica, 0.0, False)
  assert replica.free_at(0.0) > 0.0


def _hanging(replicas, calls):
  """(answer, addresses asked, calls cancelled) of calls whose first replica hangs for a second.

  Before them forty calls were made, that took 20 ms.
  """
  shard = replicas_lib.Shard(replicas)
  for _ in range(40):
    shard.begin()
    shard.answered(0.02)

  async def one():
    asked, cancelled = [], []

    async def call(url, limit_s):
      asked.append(url)
      try:
        await asyncio.sleep(1.0 if len(asked) == 1 else 0.0)
      except asyncio.CancelledError:
        cancelled.append(url)
        raise
      return url

    answer = await routing.ask(shard, call, time.monotonic() + 60)
    await asyncio.sleep(0)
    assert all(replica.outstanding == 0 for replica in shard.replicas)
    return answer, asked, cancelled

  async def run():
    return [await one() for _ in range(calls)]

  return asyncio.run(run())


def test_a_late_call_is_made_twice_but_not_often_and_its_loser_is_cancelled():
  start = time.monotonic()
  *twice, once = _hanging(['a', 'b'], 3)
  assert 1.0 < time.monotonic() - start < 1.9
  for answer, asked, cancelled in twice:
    assert sorted(asked) == ['a', 'b'] and [answer] == asked[1:] and cancelled == asked[:1]
  assert once[1] == [once[0]] and not once[2]  # Two of 42 are not more than a twentieth.
  assert _hanging(['a'], 1) == [('a', ['a'], [])]


def test_callers_wait_for_a_replica_that_is_on_trial():
  shard = replicas_lib.Shard(['a'])
  for _ in range(5):
    _end(shard.replicas[0], time.monotonic(), False)

  async def call(url, limit_s):
    return url

  async def run(limit_s):
    asked = (routing.ask(shard, call, time.monotonic() + limit_s) for _ in range(9))
    return await asyncio.gather(*asked, return_exceptions=True)

  for failure in asyncio.run(run(0.1)):
    assert failures.kind(str(failure)) == 'no_replica' and failure.outcome is Outcome.ERROR
  assert asyncio.run(run(5.0)) == ['a'] * 9
