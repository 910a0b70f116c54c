"""Making an index: the stages, what they cost, and that a kill changes nothing."""

import collections
import contextlib
import gzip
import io
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxsearch import config
from jaxsearch.retrieval import _lexical, store
from jaxsearch.retrieval import corpus as corpora
from jaxsearch.retrieval.backends import bm25
from jaxsearch.retrieval.indexing import build, documents
from jaxsearch.retrieval.indexing.progress import Progress
from jaxsearch.types import SearchRequest, UserError


def _lines(count, seed=0):
  """Documents of 0 to 60 words, some words in most of them and most words in few."""
  draw = random.Random(seed)
  for i in range(count):
    words = [f'w{int(draw.paretovariate(0.7)) % 5000}' for _ in range(draw.randrange(61))]
    yield json.dumps({'id': f'd{i}', 'contents': f'No {i}\n' + ' '.join(words)})


@pytest.fixture
def corpus(tmp_path):
  def write(count):
    path = tmp_path / 'corpus.jsonl'
    path.write_text(''.join(f'{line}\n' for line in _lines(count)))
    return str(path)

  return write


def _files(folder):
  paths = (path for path in pathlib.Path(folder).rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
  'count, chunk, postings',
  [(1, 1, 1), (50, 7, 1), (400, 64, 300), (400, 1000, 1 << 24), (2000, 300, 5000)],
)
def test_the_index_is_the_one_that_the_library_makes(corpus, tmp_path, count, chunk, postings):
  path = corpus(count)
  options = build.Bm25Options('', chunk, postings)
  info = build.build(path, str(tmp_path / 'index'), bm25=options)
  words_of = _lexical.word_function('')
  vocabulary, ids = {}, []
  for line in pathlib.Path(path).read_text().splitlines():
    found = words_of(json.loads(line)['contents'])
    ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in found])
  engine = _lexical.library().BM25()
  engine.index((ids, vocabulary), create_empty_token=False, show_progress=False)
  engine.save(tmp_path / 'theirs', show_progress=False)
  assert _files(tmp_path / 'index' / 'bm25') == _files(tmp_path / 'theirs')
  assert info['bm25']['words'] == len(vocabulary)
  assert info['bm25']['postings'] == len(engine.scores['data'])


def test_long_documents_end_a_run_early(tmp_path):
  path = tmp_path / 'corpus.jsonl'
  long = ' '.join(['ipsa'] * 36_000)
  path.write_text(''.join(json.dumps({'id': str(i), 'contents': long}) + '\n' for i in range(120)))
  build.build(str(path), str(tmp_path / 'index'))
  (result,) = bm25.open(config.Retrieval(index=str(tmp_path / 'index'))).search(
    [SearchRequest('t', 0, 0, ('ipsa',), 200, 'q', 0.0, 0)]
  )
  assert [d.id for d in result.documents[0]] == [str(i) for i in range(120)]


@pytest.mark.parametrize('chunk', [2, 1000])
def test_an_id_that_is_used_twice_is_told_with_both_lines(tmp_path, chunk):
  lines = [f'{{"id": {i!r}, "contents": "x y"}}'.replace("'", '"') for i in 'abcdbe']
  (tmp_path / 'c.jsonl').write_text('\n'.join([*lines[:2], '', *lines[2:]]))
  with pytest.raises(UserError, match="line 6, field id: 'b' is already that of line 2"):
    build.build(
      str(tmp_path / 'c.jsonl'), str(tmp_path / 'index'), bm25=build.Bm25Options(chunk=chunk)
    )


def test_hashes_that_occur_twice_are_found_a_part_at_a_time(tmp_path):
  hashes = [5, 7, 5, 9, 7, 5, 1, 2**64 - 1, 0, 2**64 - 1]
  (tmp_path / 'ids').write_bytes(b''.join(n.to_bytes(8, 'little') for n in hashes))
  for at_once in (1, 3, 4, 100):
    found = documents._repeated(tmp_path / 'ids', at_once).tolist()
    assert sorted(found) == [5, 7, 2**64 - 1]


def test_ids_of_equal_hash_are_compared(corpus, tmp_path):
  path = corpus(4)
  folder = tmp_path / 'index'
  folder.mkdir()
  with store.Writer(folder) as writer:
    for document in corpora.Corpus(path).documents():
      writer.add(document)
    writer.commit()
  (tmp_path / 'ids').write_bytes(bytes(8) * 4)
  documents._require_own_ids(corpora.Corpus(path), folder)


def test_a_corpus_that_is_refused_leaves_nothing(corpus, tmp_path):
  broken = pathlib.Path(corpus(100))
  broken.write_text(broken.read_text() + '{"id": "torn\n')
  with pytest.raises(UserError, match='line 101: not JSON'):
    build.build(str(broken), str(tmp_path / 'index'), bm25=build.Bm25Options(chunk=10))
  assert list(tmp_path.iterdir()) == [broken]


class _Terminal(io.StringIO):
  """Wide enough for a bar with all that stands beside it."""

  def isatty(self):
    return True


@pytest.mark.parametrize('made', [io.StringIO, _Terminal])
def test_progress_tells_rate_and_remaining_time(made, monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '120')
  file = made()
  with Progress(file, every_s=0.0).stage('words', 1000, 'documents', 500) as advance:
    for _ in range(5):
      time.sleep(0.1)
      advance(50)
  shown = file.getvalue()
  assert 'words' in shown and re.search(r'7[05]%', shown)
  assert re.search(r'\d\d+ documents/s', shown) and '0:00:0' in shown


def test_a_short_build_says_nothing(corpus, tmp_path, capsys):
  build.build(corpus(20), str(tmp_path / 'index'))
  assert capsys.readouterr() == ('', '')


def test_a_compressed_corpus_makes_the_same_index(corpus, tmp_path):
  path = pathlib.Path(corpus(30))
  (tmp_path / 'c.jsonl.gz').write_bytes(gzip.compress(path.read_bytes()))
  for out, source in (('plain', path), ('packed', tmp_path / 'c.jsonl.gz')):
    build.build(str(source), str(tmp_path / out))
  plain, packed = _files(tmp_path / 'plain'), _files(tmp_path / 'packed')
  assert plain.pop('index.json') != packed.pop('index.json') and plain == packed


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
  program = (
    'import resource, sys; from jaxsearch.retrieval.indexing import build; '
    'build.build(*sys.argv[1:], bm25=build.Bm25Options("", 2000, 100_000)); '
    'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)'
  )
  text = ' '.join(f'w{i}' for i in range(40))
  peaks = []
  for count in (10_000, 100_000):
    path = tmp_path / f'{count}.jsonl'
    with path.open('w') as file:
      for i in range(count):
        file.write(f'{{"id": "{i}", "contents": "w{i % 700} {text}"}}\n')
    command = [sys.executable, '-c', program, str(path), str(tmp_path / 'index')]
    peaks.append(float(subprocess.run(command, capture_output=True, check=True).stdout))
  assert peaks[1] < peaks[0] + 8, f'{peaks} MB'


def _committed(draft):
  """(documents, runs, words with postings) as far as the draft says so."""
  found = []
  for path in (draft / 'documents.json', draft / 'runs', draft / 'postings.json'):
    with contextlib.suppress(FileNotFoundError):  # Not yet, or not any more.
      found.append(len(list(path.glob('*.run'))) if path.is_dir() else path.read_text())
  return found


def _killed(command, draft, out, after_s):
  """Runs `command`, kills it `after_s` after something more is committed; what came last."""
  before = _committed(draft)
  process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
  while process.poll() is None and not out.exists() and _committed(draft) == before:
    time.sleep(0.005)
  time.sleep(after_s)
  process.send_signal(signal.SIGKILL)
  assert process.wait() in (0, -signal.SIGKILL)
  stages = len(_committed(draft))
  assert stages >= len(before) or out.exists(), 'what was committed is lost'
  return 'end' if out.exists() else stages


@pytest.mark.slow
def test_a_build_that_is_killed_anywhere_gives_the_same_index(corpus, tmp_path):
  """The verb, and builds in small portions, so that kills fall into the midst of each stage."""
  path = corpus(6000)
  whole, out, draft = tmp_path / 'whole', tmp_path / 'killed', tmp_path / '.killed.draft'
  build.build(path, str(whole))
  verb = ['-m', 'jaxsearch', 'index', f'--corpus={path}', f'--out={out}']
  program = 'from jaxsearch.retrieval.indexing import build; build.build({!r}, {!r}, bm25={})'
  draw = random.Random(1)
  last = collections.Counter()
  while not out.exists():
    options = (
      f'build.Bm25Options("english", {draw.choice([100, 400])}, {draw.choice([2000, 5000])})'
    )
    command = ['-c', program.format(path, str(out), options)]
    last[_killed(verb if sum(last.values()) == 4 else command, draft, out, draw.random() / 20)] += 1
  assert all(last[stages] for stages in (1, 2, 3)), last
  assert _files(out) == _files(whole)
