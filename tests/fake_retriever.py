"""Other people's retrieval servers, written from the descriptions of their protocols.

`Server` answers as Search-R1's, ReSearch's, R1-Searcher's, ZeroSearch's or SkyRL-gym's does, over
documents that it scores by the words they share with the query. It knows nothing of jaxsearch. A
query whose first word is '!name' makes it misbehave in the way of that name.
"""

import contextlib
import http.server
import json
import socket
import struct
import threading
import time

BIG = 10_000_000  # Characters of a document that is too large.


class Server:
  """A server at a port of its own.

  Args:
    documents: (id, title, text) of each.
    dialect: 'search_r1', 'search_r1_bm25', 'search_r1_online', 'skyrl_gym', 'research',
      'r1_searcher' or 'zerosearch'.
    health: what /health answers; None: there is none.
    build: told in the header of every answer, if not empty.
    delays: seconds before each answer, in turn; after the last one: none.

  Attributes:
    asked: (path, body) of every request.
    open: connections that were opened.
  """

  def __init__(self, documents, dialect='search_r1', health=None, build='', delays=()):
    self.documents, self.dialect, self.health = documents, dialect, health
    self.build, self.delays = build, list(delays)
    self.asked, self.seen, self.open = [], set(), []
    self.lock = threading.Lock()
    handler = type('Handler', (_Handler,), {'owner': self})
    self._server = _Threads(('127.0.0.1', 0), handler)
    threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
    self.url = f'http://127.0.0.1:{self._server.server_address[1]}'

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()

  def close(self):
    """Ends it as a killed process does: nobody listens, and what was connected is cut."""
    self._server.shutdown()
    self._server.server_close()
    for connection in self.open:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

  def best(self, query, k):
    """[(score, (id, title, text))] of the k documents that share most words with the query."""
    words = {word for word in query.lower().split() if not word.startswith('!')}
    scored = [
      (len(words & set(f'{title} {text}'.lower().split())) + 1 / (9 + int(name)), document)
      for document in self.documents
      for name, title, text in [document]
    ]
    found = sorted((s, d) for s, d in scored if s >= 1)
    return found[::-1][:k]


class _Threads(http.server.ThreadingHTTPServer):
  request_queue_size = 128
  daemon_threads = True

  def handle_error(self, request, client_address):
    pass  # Resets are on purpose.


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True
  owner = None

  def setup(self):
    super().setup()
    with self.owner.lock:
      self.owner.open.append(self.connection)

  def log_message(self, *_):
    pass

  def do_GET(self):
    if self.path == '/health' and self.owner.health is not None:
      self._send(200, json.dumps(self.owner.health).encode())
    else:
      self._send(404, b'{"detail":"Not Found"}')

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    with self.owner.lock:
      self.owner.asked.append((self.path, body))
      delay = self.owner.delays.pop(0) if self.owner.delays else 0.0
    time.sleep(delay)
    queries = body.get('queries', body.get('query'))
    faults = [q for q in ([queries] if isinstance(queries, str) else queries) if q[:1] == '!']
    fault = faults[0].split()[0][1:] if faults else ''
    if fault.endswith('_once'):
      with self.owner.lock:
        again = faults[0] in self.owner.seen
        self.owner.seen.add(faults[0])
      fault = '' if again else fault.removesuffix('_once')
    status, reply = getattr(self, f'_{self.owner.dialect}')(body)
    if fault:
      getattr(self, f'_fault_{fault}')(reply)
    else:
      self._send(status, json.dumps(reply).encode())

  def _send(self, status, data, kind='application/json', **headers):
    self.send_response(status)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(data)))
    if self.owner.build:
      self.send_header('X-Index-Build', self.owner.build)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), value)
    self.end_headers()
    self.wfile.write(data)

  # The dialects.

  def _search_r1(self, body):
    queries = body.get('queries')
    if self.path != '/retrieve' or not isinstance(queries, list):
      return 422, {'detail': [{'msg': 'Field required', 'loc': ['body', 'queries']}]}
    if not body.get('return_scores'):  # Unpacks one list into two names, in the original.
      return 500, {'detail': 'too many values to unpack'}
    rows = [
      [{'document': self._row(*document), 'score': score} for score, document in found]
      for found in (self.owner.best(query, body.get('topk') or 3) for query in queries)
    ]
    return 200, {'result': rows}

  def _row(self, name, title, text):
    return {'id': name, 'contents': f'"{title}"\n{text}'}

  def _search_r1_bm25(self, body):
    status, reply = self._search_r1(body)
    for row in (row for found in reply['result'] for row in found):
      title, text = row['document'].pop('contents').split('\n')
      contents = f'{title}\n{text}'
      row['document'] = {'title': title.strip('"'), 'text': text, 'contents': contents}
    return status, reply

  def _search_r1_online(self, body):
    found = [self.owner.best(query, 5) for query in body['queries']]  # Five, whatever is asked.
    texts = [[f'"{title}"\n{text}' for _, (_, title, text) in own] for own in found]
    return 200, {'result': [[{'document': {'contents': t}} for t in own] for own in texts]}

  def _skyrl_gym(self, body):
    if not isinstance(body.get('query'), str):
      return 422, {'detail': 'query'}
    return self._search_r1({**body, 'queries': [body['query']]})

  def _research(self, body):
    single = self.path == '/search'
    queries = [body['query']] if single else body['query']
    found = [self.owner.best(query, body.get('top_n', 10)) for query in queries]
    documents = [[{'id': n, 'contents': f'{t}\n{x}'} for _, (n, t, x) in own] for own in found]
    scores = [[score for score, _ in own] for own in found]
    if single:
      documents, scores = documents[0], scores[0]
    return 200, [documents, scores] if body.get('return_score') else documents

  def _r1_searcher(self, body):
    assert self.path == '/queries'
    found = [self.owner.best(query, body.get('k', 3)) for query in body['queries']]
    answers = [[f'{title}\n{text}' for _, (_, title, text) in own] for own in found]
    return 200, {'queries': body['queries'], 'answers': answers}

  def _zerosearch(self, body):
    found = self.owner.best(body['query'], body['top_k'])
    return 200, [{'text': f'{title}\n{text}'} for _, (_, title, text) in found]

  # The faults; `reply` is what would have been right.

  def _fault_fewer_lists(self, reply):
    self._send(200, json.dumps({'result': reply['result'][1:]}).encode())

  def _fault_more_lists(self, reply):
    self._send(200, json.dumps({'result': reply['result'] + [[]]}).encode())

  def _fault_short_list(self, reply):
    self._send(200, json.dumps({'result': [found[:1] for found in reply['result']]}).encode())

  def _fault_no_scores(self, reply):
    rows = [[row['document'] for row in found] for found in reply['result']]
    self._send(200, json.dumps({'result': rows}).encode())

  def _changed(self, reply, change):
    change(reply['result'][0][0])
    self._send(200, json.dumps(reply).encode())

  def _fault_one_score_missing(self, reply):
    self._changed(reply, lambda row: row.pop('score'))

  def _fault_nan_score(self, reply):
    self._changed(reply, lambda row: row.update(score=float('nan')))

  def _fault_text_score(self, reply):
    self._changed(reply, lambda row: row.update(score='high'))

  def _fault_null_document(self, reply):
    self._changed(reply, lambda row: row.update(document=None))

  def _fault_half_a_pair(self, reply):
    self._changed(reply, lambda row: row['document'].update(contents='a\n\ud800'))

  def _fault_big_document(self, reply):
    self._changed(reply, lambda row: row['document'].update(contents='x' * BIG))

  def _fault_flood(self, reply):
    self._changed(reply, lambda row: row['document'].update(contents='x' * 4 * BIG))

  def _fault_other_field(self, reply):
    self._send(200, json.dumps({'results': reply['result']}).encode())

  def _fault_broken_json(self, reply):
    self._send(200, json.dumps(reply).encode()[:-3])

  def _fault_html(self, reply):
    self._send(200, b'<!DOCTYPE html><title>Welcome</title>', 'text/html')

  def _fault_html_502(self, reply):
    self._send(502, b'<html><h1>502 Bad Gateway</h1></html>', 'text/html')

  def _fault_500(self, reply):
    self._send(500, b'Internal Server Error', 'text/plain')

  def _fault_504(self, reply):
    self._send(504, b'', 'text/plain')

  def _fault_404(self, reply):
    self._send(404, b'{"detail":"Not Found"}')

  def _fault_422(self, reply):
    self._send(422, b'{"detail":[]}')

  def _fault_429(self, reply):
    self._send(429, b'{}', Retry_After='1')

  def _fault_429_for_long(self, reply):
    self._send(429, b'{}', Retry_After='1000')

  def _fault_429_without(self, reply):
    self._send(429, b'{}')

  def _fault_503(self, reply):
    self._send(503, b'{}')

  def _fault_reset(self, reply):
    linger = struct.pack('ii', 1, 0)  # Closing sends a reset.
    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    self.close_connection = True
    self.connection.close()

  def _fault_hang_up(self, reply):
    self.close_connection = True
    self.connection.shutdown(socket.SHUT_RDWR)

  def _fault_half_body(self, reply):
    data = json.dumps(reply).encode()
    self.send_response(200)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data[: len(data) // 2])
    self.wfile.flush()
    self._fault_hang_up(reply)

  def _fault_not_http(self, reply):
    self.wfile.write(b'ready to talk\r\n')
    self._fault_hang_up(reply)

  def _fault_silence(self, reply):
    time.sleep(3.0)
    self._fault_hang_up(reply)
