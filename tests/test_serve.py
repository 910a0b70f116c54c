"""`jaxsearch serve`, asked by clients that were written from the protocols alone."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import jaxsearch
from jaxsearch import cli, config, plugins
from jaxsearch.retrieval import pool as pools
from jaxsearch.retrieval.backends import bm25
from jaxsearch.retrieval.backends import http as backends_http
from jaxsearch.retrieval.indexing import build
from jaxsearch.types import Outcome, SearchRequest

WORDS = (
  *('amber', 'birch', 'cedar', 'dune', 'ember', 'fjord'),
  *('grove', 'heath', 'islet', 'juniper', 'kelp', 'lagoon'),
)


class Running:
  """A `jaxsearch serve` of its own process, at a free port."""

  def __init__(self, *flags):
    root = str(pathlib.Path(jaxsearch.__file__).parents[1])
    self.process = subprocess.Popen(
      [sys.executable, '-m', 'jaxsearch', 'serve', '--port=0', *flags],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONPATH': root},
    )
    line = self.process.stdout.readline()
    found = re.search(r'http://([\w.]+):(\d+)', line)
    assert found, self.process.communicate()
    self.host, self.port = found[1], int(found[2])
    self.url = found[0]

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.process.kill()
    self.process.communicate()

  def connect(self):
    return http.client.HTTPConnection(self.host, self.port, timeout=30)

  def post(self, path, body, connection=None):
    """(status, JSON, headers)."""
    connection = connection or self.connect()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request('POST', path, data, {'Content-Type': 'application/json'})
    response = connection.getresponse()
    return response.status, json.loads(response.read()), response.headers

  def get(self, path):
    connection = self.connect()
    connection.request('GET', path)
    return connection.getresponse().read().decode()

  def end(self, number=signal.SIGTERM):
    """(exit code, standard error) after a signal."""
    self.process.send_signal(number)
    _, told = self.process.communicate(timeout=20)
    return self.process.returncode, told


@pytest.fixture(scope='module')
def index(tmp_path_factory):
  root = tmp_path_factory.mktemp('serve')
  with (root / 'corpus.jsonl').open('w') as file:
    for i, (a, b) in enumerate(zip(WORDS, WORDS[1:] + WORDS[:1])):
      title = f'{a.title()} "é"' if i == 2 else a.title()
      text = f'{title}\nThe {a} lies near {b}.'
      file.write(json.dumps({'id': f'd{i}', 'contents': text}) + '\n')
    file.write(json.dumps({'id': 'd12', 'text': 'An untitled quarry.'}) + '\n')
  build.build(str(root / 'corpus.jsonl'), str(root / 'index'))
  return root / 'index'


@pytest.fixture(scope='module')
def server(index):
  with Running(f'--index={index}', '--workers=2') as running:
    yield running


@pytest.fixture(scope='module')
def search(index):
  """The bare backend: query, top_k -> documents."""
  backend = bm25.open(config.Retrieval(index=str(index)))

  def search(query, top_k):
    return backend.search([SearchRequest('', 0, 0, (query,), top_k, '', 0.0, 0)])[0].documents[0]

  return search


_CEDAR = {'id': 'd2', 'contents': '"Cedar "é""\nThe cedar lies near dune.'}
_BIRCH = {'id': 'd1', 'contents': '"Birch"\nThe birch lies near cedar.'}
_BARE = [_CEDAR, _BIRCH]
_PLAIN = [{'id': d['id'], 'contents': d['contents'].replace('"', '', 1)} for d in _BARE]
_PLAIN = [{**d, 'contents': re.sub('"\n', '\n', d['contents'])} for d in _PLAIN]
_TEXTS = [d['contents'] for d in _PLAIN]
_UNTITLED = {'id': 'd12', 'contents': '\nAn untitled quarry.'}
# Requests in every dialect, and the answers without their scores.
TRANSCRIPTS = {
  'search_r1 of one': ('/retrieve', {'queries': ['cedar']}, {'result': [_BARE]}),
  'search_r1 of two': (
    '/retrieve',
    {'queries': ['cedar', 'quarry'], 'topk': None, 'return_scores': False},
    {'result': [_BARE, [_UNTITLED]]},
  ),
  'search_r1 of three': (
    '/retrieve',
    {'queries': ['quarry', 'xylem', 'cedar'], 'topk': 1, 'return_scores': False},
    {'result': [[_UNTITLED], [], [_CEDAR]]},
  ),
  'search_r1 with scores': (
    '/retrieve',
    {'queries': ['cedar', ''], 'topk': 3, 'return_scores': True},
    {'result': [[{'document': _CEDAR}, {'document': _BIRCH}], []]},
  ),
  'search_r1 of none': ('/retrieve', {'queries': []}, {'result': []}),
  'skyrl_gym': ('/retrieve', {'query': 'cedar', 'topk': 1}, {'result': [[_CEDAR]]}),
  'skyrl_gym with scores': (
    '/retrieve',
    {'query': 'cedar', 'topk': 1, 'return_scores': True},
    {'result': [[{'document': _CEDAR}]]},
  ),
  'research of one': ('/search', {'query': 'cedar', 'top_n': 1}, _PLAIN[:1]),
  'research of one with scores': (
    '/search',
    {'query': 'cedar', 'return_score': True},
    [_PLAIN, []],
  ),
  'research': ('/batch_search', {'query': ['cedar', 'xylem']}, [_PLAIN, []]),
  'research with scores': (
    '/batch_search',
    {'query': ['cedar', 'xylem'], 'top_n': 5, 'return_score': True},
    [[_PLAIN, []], [[], []]],
  ),
  'r1_searcher': (
    '/queries',
    {'queries': ['cedar'], 'k': 3},
    {'queries': ['cedar'], 'answers': [_TEXTS]},
  ),
  'zerosearch': ('/retrieve', {'query': 'cedar', 'top_k': 1}, [{'text': _TEXTS[0]}]),
}


def _without_scores(reply, taken):
  """The reply without numbers, which go to `taken`."""
  if isinstance(reply, dict):
    taken += [value for name, value in reply.items() if name == 'score']
    return {n: _without_scores(v, taken) for n, v in reply.items() if n != 'score'}
  if isinstance(reply, list):
    taken += [value for value in reply if isinstance(value, float)]
    return [_without_scores(value, taken) for value in reply if not isinstance(value, float)]
  return reply


@pytest.mark.parametrize('name', TRANSCRIPTS)
def test_every_dialect_is_answered_as_its_own_clients_expect(server, search, name):
  path, body, expected = TRANSCRIPTS[name]
  status, reply, headers = server.post(path, body)
  scores = []
  assert (status, _without_scores(reply, scores)) == (200, expected)
  assert headers['Content-Type'].startswith('application/json')
  wanted = [d.score for d in search('cedar', 1 if '1' in json.dumps(body) else 3)]
  assert scores == (wanted if 'with scores' in name else [])


def test_every_request_is_one_dialects_alone():
  for name, (path, body, _) in TRANSCRIPTS.items():
    modules = {
      n: plugins.load('retrieval.dialects', n) for n in plugins.names('retrieval.dialects')
    }
    assert [n for n, m in modules.items() if m.parse(path, body)] == [name.split()[0]]


@pytest.mark.parametrize(
  ('path', 'body', 'said'),
  [
    ('/retrieve', {'queries': ['a'], 'topk': 101}, 'at most 100'),
    ('/retrieve', {'queries': ['a'], 'topk': -1}, 'topk is -1'),
    ('/retrieve', {'queries': ['a'], 'topk': '3'}, "topk is '3'"),
    ('/retrieve', {'queries': ['a'], 'return_scores': 1}, 'return_scores is 1'),
    ('/retrieve', {'queries': 'a'}, "queries is 'a'"),
    ('/retrieve', {'queries': [None]}, 'queries is [None]'),
    ('/retrieve', {'query': ['a'], 'topk': 3}, "query is ['a']"),
    ('/retrieve', {'question': 'a'}, 'this request has question'),
    ('/batch_search', {'query': 'a'}, "query is 'a'"),
    ('/search', {}, 'query is missing'),
    ('/queries', {'query': 'a'}, 'queries is missing'),
    ('/retrieve', [1], 'no JSON object'),
    ('/retrieve', b'{"queries": ["a"', 'not JSON'),
    ('/retrieve', b'[' * 100_000, 'not JSON'),
    ('/search', b'\xff\xfe{}', 'not JSON'),
  ],
)
def test_a_broken_request_is_refused_with_the_field(server, path, body, said):
  status, reply, _ = server.post(path, body)
  assert (status, reply['outcome']) == (400, 'bad_request') and said in reply['message']


def test_a_blank_query_alone_is_refused_and_in_company_finds_nothing(server):
  status, reply, headers = server.post('/search', {'query': ' '})
  assert (status, reply['outcome']) == (400, 'bad_query') == (400, headers['X-Search-Outcome'])
  assert server.post('/batch_search', {'query': ['', ' ']})[0] == 400
  status, reply, _ = server.post('/batch_search', {'query': ['', 'cedar']})
  assert status == 200 and list(map(len, reply)) == [0, 2]


def test_a_body_that_is_too_large_and_other_places_are_refused(server):
  status, reply, _ = server.post('/retrieve', {'queries': ['x' * 9 * 2**20]})
  assert (status, reply['outcome']) == (413, 'bad_request')
  connection = server.connect()
  for method, path, status in (('GET', '/retrieve', 405), ('POST', '/nowhere', 404)):
    connection.request(method, path, b'')
    response = connection.getresponse()
    response.read()
    assert response.status == status


@pytest.mark.parametrize(
  'query', ['é ß 東京 🦉 cedar', 'cedar ' * 2000, '\ud800 cedar', '\x00 cedar']
)
def test_odd_queries_are_answered(server, query):
  status, reply, _ = server.post('/retrieve', {'queries': [query, query], 'topk': 1})
  assert (status, reply) == (200, {'result': [[_CEDAR], [_CEDAR]]})


def test_the_same_request_has_the_same_bytes_and_there_may_be_fewer_documents(server):
  body = json.dumps({'queries': ['near cedar'] * 3, 'topk': 100, 'return_scores': True})
  connection, told = server.connect(), set()
  for _ in range(5):
    connection.request('POST', '/retrieve', body)
    told.add(connection.getresponse().read())
  assert len(told) == 1
  assert [len(found) for found in json.loads(told.pop())['result']] == [12, 12, 12]


def test_sixty_four_clients_at_once_get_each_their_own(server, search):
  def client(n):
    connection, wrong = server.connect(), []
    for turn in range(8):
      queries = [WORDS[(n + turn * k) % 12] for k in range(1 + (n + turn) % 5)]
      body = {'queries': queries, 'topk': 1 + n % 2, 'return_scores': True}
      status, reply, _ = server.post('/retrieve', body, connection)
      got = [[(r['document']['id'], r['score']) for r in found] for found in reply['result']]
      expected = [[(d.id, d.score) for d in search(q, body['topk'])] for q in queries]
      if (status, got) != (200, expected):
        wrong.append((queries, status, got))
    return wrong

  with concurrent.futures.ThreadPoolExecutor(64) as threads:
    assert [wrong for wrong in threads.map(client, range(64)) if wrong] == []


def test_health_and_metrics_tell_what_is_served(server):
  server.post('/search', {'query': 'xylem'})
  about = json.loads(server.get('/health'))
  assert about.pop('retrievers') == {'total': 2, 'available': 2}
  assert about.pop('ready') == {'search': 2}
  assert re.fullmatch('[0-9a-f]{16}', about.pop('build'))
  assert about == {'status': 'ok', 'backend': 'bm25', 'documents': 13}
  text = server.get('/metrics')
  numbers = dict(line.rsplit(' ', 1) for line in text.splitlines() if not line.startswith('#'))
  assert float(numbers['jaxsearch_requests_total{dialect="research",outcome="empty"}']) >= 1
  assert float(numbers['jaxsearch_queries_total{outcome="empty"}']) >= 1
  assert float(numbers['jaxsearch_request_seconds_count{dialect="research"}']) >= 1
  assert float(numbers['jaxsearch_in_flight{what="queries"}']) == 0
  assert not socket.gethostbyname(server.host).startswith('0')  # Loopback, unless told.


@pytest.mark.parametrize(
  'dialect', ['search_r1', 'skyrl_gym', 'research', 'r1_searcher', 'zerosearch']
)
def test_our_own_client_gets_what_the_backend_gives(server, search, dialect):
  settings = config.Retrieval(backend='http', url=server.url, dialect=dialect)
  backend = backends_http.open(settings)
  request = SearchRequest('t', 0, 0, ('cedar near', 'quarry', 'xylem'), 2, 'q', 0.0, 0)
  [result] = backend.search([request])
  backend.close()
  wanted = [search(query, 2) for query in request.queries]
  text = lambda found: [(d.title, d.text) for d in found]
  assert list(map(text, result.documents)) == list(map(text, wanted))
  if dialect in ('search_r1', 'skyrl_gym', 'research'):
    assert list(result.documents) == wanted
  assert result.outcome is Outcome.OK and backend.identity.startswith(f'http:{dialect}:')


def _faulty(index, tmp_path, **faults):
  folder = tmp_path / 'faulty'
  folder.mkdir()
  for file in index.iterdir():
    (folder / file.name).symlink_to(file)
  (folder / 'faults.json').write_text(json.dumps(faults))
  return [f'--index={folder}', '--backend=faulty', '--config.retrieval.retries=0']


@pytest.mark.parametrize(
  ('fault', 'status'), [('error', 502), ('timeout', 504), ('overloaded', 503), ('raise', 502)]
)
def test_a_query_that_fails_fails_its_request_and_says_which(index, tmp_path, fault, status):
  flags = [*_faulty(index, tmp_path, **{fault: 0.5}), '--config.retrieval.batch=1']
  with Running(*flags) as running:
    replies = {word: running.post('/search', {'query': word})[0] for word in WORDS}
    assert set(replies.values()) == {200, status}
    code, reply, headers = running.post('/batch_search', {'query': list(WORDS)})
    assert code == status and reply['message']
    outcome = 'error' if fault == 'raise' else fault
    assert reply['outcome'] == headers['X-Search-Outcome'] == outcome
    assert reply['outcomes'] == ['ok' if replies[w] == 200 else outcome for w in WORDS]
    assert headers['Retry-After'] == ('1' if status == 503 else None)


def test_more_requests_than_may_be_in_flight_are_refused_and_our_client_comes_again(
  index, tmp_path
):
  flags = [*_faulty(index, tmp_path, latency_s=[0.5, 0.5]), '--queue=2']
  with Running(*flags) as running, concurrent.futures.ThreadPoolExecutor(8) as threads:
    asked = [threads.submit(running.post, '/search', {'query': w}) for w in WORDS[:8]]
    replies = [reply.result() for reply in asked]
    assert sorted(status for status, _, _ in replies)[:2] == [200, 200]
    refused = [headers['Retry-After'] for status, _, headers in replies if status == 429]
    assert len(refused) >= 4 and set(refused) == {'1'}
    settings = config.Retrieval(backend='http', url=running.url, deadline_s=20.0)
    requests = [SearchRequest(w, 0, 0, (w,), 1, 'q', 0.0, n) for n, w in enumerate(WORDS[:6])]
    with pools.Pool(settings) as pool:
      for request in requests:
        pool.submit(request)
      answers = []
      while pool.pending:
        answers += pool.poll(5.0)
    assert [result.outcome for _, result in answers] == [Outcome.OK] * 6


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_answers_what_is_in_flight_and_ends_well(index, tmp_path, number):
  flags = _faulty(index, tmp_path, latency_s=[1.0, 1.0])
  with Running(*flags) as running, concurrent.futures.ThreadPoolExecutor(4) as threads:
    asked = [threads.submit(running.post, '/search', {'query': w, 'top_n': 1}) for w in WORDS[:4]]
    time.sleep(0.4)
    start = time.monotonic()
    about = json.loads(running.get('/health'))
    assert time.monotonic() - start < 0.3  # Searches never hold up the event loop.
    assert about['retrievers'] == {'total': 1, 'available': 0}
    assert running.end(number) == (0, '')
    assert [reply.result()[0] for reply in asked] == [200] * 4
    with pytest.raises(ConnectionRefusedError):
      running.get('/health')


def test_a_server_may_stand_before_others_and_passes_on_what_is_missing(index, server, tmp_path):
  """As the one address of two shards, one of which dies."""
  with Running(f'--index={index}') as second:
    front = ['--backend=http', f'--config.retrieval.url={server.url};{second.url}']
    options = ['--config.retrieval.deadline_s=5', '--config.retrieval.cache_queries=0']
    with Running(*front, *options) as running:
      status, reply, headers = running.post('/search', {'query': 'cedar', 'top_n': 4})
      assert status == 200 and [d['id'] for d in reply] == ['d2', 'd2', 'd1', 'd1']
      assert headers['X-Index-Build']
      second.process.kill()
      second.process.wait()
      status, reply, headers = running.post('/search', {'query': 'cedar', 'top_n': 4})
      assert (status, headers['X-Search-Outcome']) == (200, 'partial')
      assert [d['id'] for d in reply] == ['d2', 'd1']
      backend = backends_http.open(config.Retrieval(backend='http', url=running.url))
      [result] = backend.search([SearchRequest('t', 0, 0, ('cedar',), 4, 'q', 0.0, 0)])
      assert result.outcome is Outcome.PARTIAL and len(result.documents[0]) == 2
      assert backend.identity  # Of both shards; what is partial is not kept.
      backend.close()
      assert running.post('/search', {'query': 'xylem'})[0] == 502


def test_more_queries_than_may_be_in_flight_are_never_taken(index):
  with Running(f'--index={index}', '--queue=3') as running:
    status, reply, _ = running.post('/batch_search', {'query': list(WORDS[:4]), 'top_n': 1})
    assert (status, reply['outcome']) == (400, 'bad_request') and '--queue' in reply['message']
    assert running.post('/batch_search', {'query': list(WORDS[:3]), 'top_n': 1})[0] == 200


def test_a_server_whose_index_was_changed_says_so_and_ends(index, tmp_path):
  """Rather than mix the answers of two indexes."""
  folder = shutil.copytree(index, tmp_path / 'index')
  with Running(f'--index={folder}', '--workers=1') as running:
    assert running.post('/search', {'query': 'cedar'})[0] == 200
    corpus = tmp_path / 'other.jsonl'
    corpus.write_text('{"id": "1", "contents": "cedar\\nAnother cedar."}\n')
    build.build(str(corpus), str(folder))
    [worker] = psutil.Process(running.process.pid).children()
    worker.kill()
    status, reply, _ = running.post('/search', {'query': 'grove'})
    assert status == 502 and reply['outcomes'] == ['error']
    _, told = running.process.communicate(timeout=30)
    assert running.process.returncode == 2 and 'has changed while it ran' in told


def test_what_cannot_be_served_is_one_paragraph(server, index, capsys, tmp_path):
  for flags, said in (
    ([f'--index={index}', f'--port={server.port}'], 'another port'),
    ([f'--index={index}', '--host=nowhere.invalid'], '--host=nowhere.invalid'),
    ([f'--index={tmp_path}'], 'jaxsearch index'),
    (['--index=nowhere'], 'retrieval.index is'),
    ([f'--index={index}', '--backend=bm26'], "Did you mean 'bm25'"),
    (['--backend=http'], 'retrieval.url is'),
    (['--backend=http', '--config.retrieval.url=http://127.0.0.1:1'], 'No retrieval server'),
    ([f'--index={index}', '--queue=0'], '--queue'),
    ([f'--index={index}', '--port=65536'], '--port'),
  ):
    assert cli.main(['serve', *flags]) == 2
    told = capsys.readouterr().err
    assert said in told and told.startswith('jaxsearch serve: ') and '\n\n' not in told


def test_the_pools_own_numbers_are_told_every_ten_seconds(server):
  server.post('/search', {'query': 'cedar'})
  end = time.monotonic() + 15.0
  while 'jaxsearch_pool{metric="search/count"}' not in server.get('/metrics'):
    assert time.monotonic() < end
    time.sleep(0.2)
