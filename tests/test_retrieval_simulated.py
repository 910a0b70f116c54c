"""Simulated retrievers: the noise curriculum, and an endpoint that plays the search engine."""

import contextlib
import http.server
import json
import threading
import time

import policies
import pytest

from jaxsearch import config, questions
from jaxsearch.retrieval import _noise, _simulation
from jaxsearch.retrieval.backends import bm25, noisy, simulator
from jaxsearch.retrieval.pool import Pool
from jaxsearch.types import Document, Outcome, Question, SearchRequest, UserError


def make_request(query='amber', *, key=0, progress=0.0, question='q1', top_k=3):
  return SearchRequest(f't{key}', 0, 0, (query,), top_k, question, progress, key)


def test_the_curriculum_by_hand():
  settings = config.Retrieval(noise_start=0.0, noise_end=0.75)
  found = [_noise.share(settings, progress) for progress in (0.0, 0.5, 1.0)]
  assert found == pytest.approx([0.0, 0.25, 0.75])
  # ZeroSearch's example: 203 steps from 0 to 0.5.
  settings = config.Retrieval(noise_start=0.0, noise_end=0.5)
  found = [_noise.share(settings, step / 203) for step in (1, 50, 101, 152, 202)]
  assert found == pytest.approx([0.001, 0.068, 0.166, 0.304, 0.495], abs=6e-4)
  settings = config.Retrieval(noise_start=0.3, noise_end=0.3)
  assert {_noise.share(settings, p) for p in (0.0, 0.4, 1.0)} == {0.3}


@pytest.fixture(scope='module')
def index(tmp_path_factory):
  return str(policies.build_index(tmp_path_factory.mktemp('index')))


def ids(result):
  return [[d.id for d in found] for found in result.documents]


def test_without_noise_it_is_the_index_and_with_it_nothing_of_what_was_asked(index):
  requests = [make_request(word, key=k) for k, word in enumerate(policies.WORDS)]
  plain = bm25.open(config.Retrieval(index=index)).search(requests)
  settings = config.Retrieval(index=index, noise_start=0.0, noise_end=1.0)
  assert noisy.open(settings).search(requests) == plain
  late = [make_request(r.queries[0], key=r.key, progress=1.0) for r in requests]
  for useful, misled in zip(plain, noisy.open(settings).search(late)):
    assert misled.outcome is Outcome.OK and len(misled.documents[0]) == 3
    assert not {*ids(useful)[0]} & {*ids(misled)[0]}


def test_noise_is_drawn_from_the_key_in_its_share(index):
  settings = config.Retrieval(index=index, noise_start=0.3, noise_end=0.3)
  requests = [make_request(key=k) for k in range(400)]
  useful = ids(bm25.open(settings).search(requests[:1])[0])
  found = [ids(r) for r in noisy.open(settings).search(requests)]
  assert 0.22 < sum(answer != useful for answer in found) / 400 < 0.38
  again = [ids(r) for r in noisy.open(settings).search(requests[::-1])][::-1]
  assert found == again
  assert len({str(answer) for answer in found}) > 20


QUESTIONS = [
  Question('q1', 'Who led Vantor?', ('Mira Oslen', 'M. Oslen')),
  Question('q2', 'Where is Ola?', ('Kelp Bay',)),
]


@contextlib.contextmanager
def endpoint(answer):
  """An OpenAI-compatible server; `answer` maps the request's fields to (status, text)."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      fields = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      status, text = answer(fields)
      body = json.dumps({'choices': [{'message': {'content': text}}]}).encode()
      with contextlib.suppress(ConnectionError):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f'http://127.0.0.1:{server.server_port}/v1'
  finally:
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(tmp_path):
  questions.write(tmp_path / 'q.jsonl', QUESTIONS)
  return config.Retrieval(
    backend='simulator', questions=str(tmp_path / 'q.jsonl'), model='sim', deadline_s=5.0
  )


def echo(fields):
  """Writes the whole request back as one document."""
  return 200, 'Doc 1: ' + fields['messages'][0]['content'].replace('Doc ', 'Example ')


def test_every_search_knows_its_own_question_and_no_other(settings):
  """ZeroSearch's released code answers a row with another row's facts once one has finished."""
  with endpoint(echo) as settings.url, Pool(settings) as pool:
    wanted = {}
    for key in range(12):
      question = QUESTIONS[key % 2]
      pool.submit(make_request(f'query {key}', key=key, question=question.id))
      wanted[f't{key}'] = (question, f'Query: query {key}\n')
    answers = []
    while pool.pending:
      answers += pool.poll(5.0)
  assert len(answers) == 12
  for request, result in answers:
    question, query = wanted[request.trajectory]
    ((document,),) = result.documents
    said = f'{document.title}\n{document.text}\n'
    assert query in said and question.text in said and question.golden_answers[0] in said
    other = QUESTIONS[question is QUESTIONS[0]]
    assert other.text not in said


@pytest.mark.parametrize(
  ('mode', 'noise', 'knows', 'words'),
  [
    ('prompted', 0.0, True, ('useful', 'Example:')),
    ('prompted', 1.0, False, ('noisy', 'Example:')),
    ('tuned', 0.0, True, ('useful',)),
    ('tuned', 1.0, True, ('noisy',)),
  ],
)
def test_what_the_simulator_is_told(settings, mode, noise, knows, words):
  settings.mode, settings.noise_start, settings.noise_end = mode, noise, noise
  with endpoint(echo) as settings.url:
    (result,) = simulator.open(settings).search([make_request(top_k=2)])
  text = f'{result.documents[0][0].title}\n{result.documents[0][0].text}'
  assert ('Mira Oslen' in text) == ('Who led' in text) == knows
  assert all(word in text for word in words) and 'Write 2 short' in text
  assert ('Example:' in text) == (mode == 'prompted')


def test_documents_are_told_apart(settings):
  text = 'Here you are.\nDoc 1: One\nis one.\nDoc 2. Two.\nDocument 3: Three.\nDoc 4: Four.'
  with endpoint(lambda fields: (200, text)) as settings.url:
    (result,) = simulator.open(settings).search([make_request(top_k=3)])
  read = [(d.title, d.text) for d in result.documents[0]]
  assert read == [('One', 'is one.'), ('amber', 'Two.'), ('amber', 'Three.')]
  assert len({d.id for d in result.documents[0]}) == 3
  assert _simulation.split('Nothing numbered.', 3) == ['Nothing numbered.']
  assert _simulation.split(' ', 3) == []


PAGES = [
  Document('a', 'Amber', 'Doc 2: Doc 7. Amber is near\nbirch.'),
  Document('b', 'Doc 1: Birch', 'Document 3 says so: yes.'),
  Document('c', 'Cedar  Hill', ' Doc 1'),
]


def test_what_is_rendered_is_read_as_the_same_documents(settings):
  read = [
    ('Amber', 'Amber is near birch.'),
    ('Doc 1: Birch', 'Document 3 says so: yes.'),
    ('Cedar Hill', 'Doc 1'),
  ]
  asker = _simulation.Asker(settings)
  for count in (1, 2, 3):
    request = make_request(top_k=count)
    found = asker.documents(request, 'q', _simulation.render(PAGES[:count]))
    assert [(d.title, d.text) for d in found] == read[:count]
    assert [d.score for d in found] == [1.0, 1 / 2, 1 / 3][:count]
  assert len(asker.documents(make_request(top_k=2), 'q', _simulation.render(PAGES))) == 2


def test_a_prompt_file_asks_in_its_own_words(settings, tmp_path):
  settings.prompt = str(tmp_path / 'p.txt')
  (tmp_path / 'p.txt').write_text('{kind} {top_k}|{query}|{question}|{answers}')
  query = '{answers} {kind}'  # What a policy spells is no place.
  for mode, noise, expected in (
    ('prompted', 0.0, 'useful 2|{answers} {kind}|Who led Vantor?|Mira Oslen or M. Oslen'),
    ('prompted', 1.0, 'noisy 2|{answers} {kind}||'),
    ('tuned', 1.0, 'noisy 2|{answers} {kind}|Who led Vantor?|Mira Oslen or M. Oslen'),
  ):
    settings.mode, settings.noise_start, settings.noise_end = mode, noise, noise
    assert _simulation.Asker(settings).prompts(make_request(query, top_k=2)) == [expected]
  unknown = make_request(query, question='q9', top_k=2)
  assert _simulation.Asker(settings).prompts(unknown) == ['noisy 2|{answers} {kind}||']


def test_a_failing_endpoint_is_the_infrastructures_fault(settings):
  for answer in (lambda fields: (500, ''), lambda fields: (200, None)):
    with endpoint(answer) as settings.url:
      (result,) = simulator.open(settings).search([make_request()])
    assert result.outcome is Outcome.ERROR and settings.url in result.message
  (result,) = simulator.open(settings).search([make_request()])
  assert result.outcome is Outcome.ERROR  # Nobody listens there any more.
  settings.deadline_s = 0.2
  with endpoint(lambda fields: time.sleep(1.0) or (200, 'late')) as settings.url:
    (result,) = simulator.open(settings).search([make_request()])
  assert result.outcome is Outcome.TIMEOUT


def test_wrong_settings_are_refused(settings, tmp_path):
  settings.url, settings.mode = 'http://x/v1', 'guided'
  with pytest.raises(UserError, match="mode is 'guided'; allowed: prompted, tuned"):
    simulator.open(settings)
  settings.url, settings.mode = 'localhost:6001', 'tuned'
  with pytest.raises(UserError, match="url is 'localhost:6001'; give the address"):
    simulator.open(settings)
  settings.url, settings.prompt = 'http://x/v1', str(tmp_path / 'p.txt')
  with pytest.raises(UserError, match='p.txt.*cannot be read'):
    simulator.open(settings)
  (tmp_path / 'p.txt').write_text('Write: {question}')
  with pytest.raises(UserError, match='has no {query} and no {kind}. Write them where'):
    simulator.open(settings)
  settings.prompt, settings.questions = '', 'nowhere.jsonl'
  with pytest.raises(UserError, match='nowhere.jsonl'):
    simulator.open(settings)
