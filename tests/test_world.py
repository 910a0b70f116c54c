"""The world claims: search is needed, search suffices, nothing is shared between the splits."""

import collections
import dataclasses
import json
import re
import subprocess
import sys

import pytest

from jaxsearch import questions, world
from jaxsearch.text import tokenizer
from jaxsearch.types import UserError
from jaxsearch.world import ask, schema

SMALL = world.Size(
  documents=600,
  train_documents=1500,
  demonstration_count=400,
  train_per_hop=60,
  dev_per_hop=20,
  test_per_hop=60,
)
SPLITS = ('train', 'dev', 'test')


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  folder = tmp_path_factory.mktemp('world')
  world.write(folder, 3, SMALL)
  return folder


@pytest.fixture(scope='module')
def pages(out):
  return {split: {d['id']: d['contents'] for d in _lines(out, split, 'corpus')} for split in SPLITS}


def _lines(out, split, name):
  return [json.loads(line) for line in (out / split / f'{name}.jsonl').open(encoding='utf-8')]


def _title(contents):
  return contents.split('\n')[0]


def _bytes(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def test_same_seed_same_bytes_even_in_a_new_process(out, tmp_path):
  size = f'world.{SMALL!r}'
  code = f'from jaxsearch import world; world.write({str(tmp_path / "a")!r}, 3, {size})'
  subprocess.run([sys.executable, '-c', code], check=True, env={'PYTHONHASHSEED': '7'})
  assert _bytes(tmp_path / 'a') == _bytes(out)
  world.write(tmp_path / 'b', 4, SMALL)
  assert _bytes(tmp_path / 'b')['test/corpus.jsonl'] != _bytes(out)['test/corpus.jsonl']


def test_a_full_world_passes_its_audit(tmp_path):
  world.write(tmp_path, 0)
  report = world.audit(tmp_path)
  assert report['passed'], report['checks']
  assert {hops: row['n'] for hops, row in report['by_hops'].items()} == dict.fromkeys(
    (1, 2, 3, 4), 300
  )
  assert all(len(_lines(tmp_path, split, 'corpus')) >= 2000 for split in SPLITS)
  assert report['tokens']['test_article']['mean'] < 60


def test_audit_notices_pages_that_name_the_start(out, tmp_path):
  world.write(tmp_path, 3, SMALL)
  two = [q for q in questions.read(tmp_path / 'test/questions.jsonl') if q.metadata['hops'] == 2]
  start = {q.metadata['supporting_documents'][-1]: q.metadata['chain'][0] for q in two}
  lines = _lines(tmp_path, 'test', 'corpus')
  for line in lines:
    if line['id'] in start:
      line['contents'] += f' {start[line["id"]]["subject"]}' * 3
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (tmp_path / 'test/corpus.jsonl').write_text(text)
  report = world.audit(tmp_path)
  assert not report['passed']
  assert not report['checks']['raw_question']['passed']
  assert world.audit(out)['checks']['raw_question']['passed']


def test_audit_notices_missing_pages_and_common_answers(tmp_path):
  world.write(tmp_path, 3, SMALL)
  lines = _lines(tmp_path, 'test', 'corpus')
  text = ''.join(json.dumps(line) + '\n' for line in lines[::2])
  (tmp_path / 'test/corpus.jsonl').write_text(text)
  asked = _lines(tmp_path, 'test', 'questions')
  for line in asked[::2]:
    line['golden_answers'] = ['Kamo']
  text = ''.join(json.dumps(line) + '\n' for line in asked)
  (tmp_path / 'test/questions.jsonl').write_text(text)
  checks = world.audit(tmp_path)['checks']
  assert not checks['oracle']['passed']
  assert not checks['closed_book_em']['passed']


def test_splits_share_no_name(pages):
  titles = {split: [_title(c) for c in pages[split].values()] for split in SPLITS}
  for split, names in titles.items():
    size = SMALL.train_documents if split == 'train' else SMALL.documents
    assert len(set(names)) == len(names) == size
  assert not set(titles['train']) & {*titles['dev'], *titles['test']}
  assert not set(titles['dev']) & set(titles['test'])
  text = ' '.join(pages['train'].values())
  assert not any(name in text for name in titles['test'])


def test_half_a_name_finds_others(pages):
  """Words of names are shared: within a world as distractors, and with the training world."""
  common = {word for kind in schema.KINDS for word in kind.last_words}
  words = {s: [w for c in pages[s].values() for w in _title(c).split()] for s in SPLITS}
  counts = collections.Counter(words['test'])
  assert sum(counts.values()) / len(counts) > 3
  assert set(words['test']) - common <= set(words['train'])
  assert 250 < len(set(words['train']) - common) <= 288


def test_splits_share_no_carrier(out):
  """What is left of a question without its names and relations differs between splits."""
  carriers = {}
  for split in SPLITS:
    carriers[split] = set()
    for question in questions.read(out / split / 'questions.jsonl'):
      text = question.text
      for link in question.metadata['chain']:
        text = text.replace(link['subject'], '@')
        noun = next(r.noun for r in schema.RELATIONS if r.name == link['relation'])
        text = text.replace(f'the {noun} of @', '@')
      assert text.count('@') == 1, question.text
      carriers[split].add(text)
  assert not carriers['train'] & (carriers['dev'] | carriers['test'])
  assert not carriers['dev'] & carriers['test']
  assert min(len(c) for c in carriers.values()) >= 3


def test_questions_follow_the_pages(out, pages):
  for split in SPLITS:
    asked = questions.read(out / split / 'questions.jsonl')
    hops = {q.metadata['hops'] for q in asked}
    assert hops == ({1, 2, 3} if split == 'train' else {1, 2, 3, 4})
    for question in asked:
      chain = question.metadata['chain']
      names = [chain[0]['subject'], *(link['object'] for link in chain)]
      assert len(set(names)) == len(chain) + 1 == question.metadata['hops'] + 1
      assert len({link['relation'] for link in chain}) == len(chain)
      assert question.golden_answers == (names[-1],)
      assert question.metadata['supporting_documents'] == [link['document'] for link in chain]
      assert names[0] in question.text
      assert not any(name in question.text for name in names[1:])
      for link in chain:
        page = pages[split][link['document']]
        assert _title(page) == link['subject']
        assert link['object'] in page.split('\n')[1]


def test_no_page_is_named_back_and_no_question_asked_twice(out, pages):
  by_title = {_title(contents): contents for contents in pages['test'].values()}
  for question in questions.read(out / 'test/questions.jsonl'):
    for link in question.metadata['chain']:
      assert not re.search(rf'\b{link["subject"]}\b', by_title[link['object']])
  texts = {q.text for q in questions.read(out / 'test/questions.jsonl')}
  assert len(texts) == 4 * SMALL.test_per_hop


def test_articles_are_short(pages):
  lengths = [len(c.split('\n')[1].split()) for c in pages['test'].values()]
  assert min(lengths) >= 12 and max(lengths) <= 45


def test_articles_have_the_right_article(pages):
  text = '\n'.join(contents for split in SPLITS for contents in pages[split].values())
  assert ' an old ' in text
  assert not re.findall(r'\ba [aeiou]\w*|\ban [^aeiou]\w*', text)


def test_some_relation_sequences_are_new_in_test(out):
  def sequences(split):
    asked = questions.read(out / split / 'questions.jsonl')
    return {
      (tuple(link['relation'] for link in q.metadata['chain']), q.metadata['chain_in_training'])
      for q in asked
      if q.metadata['hops'] > 1
    }

  assert all(trained for _, trained in sequences('train'))
  unseen = {chain for chain, trained in sequences('test') if not trained}
  assert unseen
  assert not unseen & {chain for chain, _ in sequences('train')}


def test_demonstrations_are_weak(out, pages):
  lines = _lines(out, 'train', 'demonstrations')
  asked = {q.text for q in questions.read(out / 'train/questions.jsonl')}
  by_title = {_title(contents): contents for contents in pages['train'].values()}
  assert {line['hops'] for line in lines} == {1, 2, 3}
  assert not asked & {line['question'] for line in lines}
  for line in lines:
    searches = [step['search'] for step in line['steps'] if 'search' in step]
    answer = line['steps'][-1]['answer']
    right = answer in line['golden_answers']
    assert len(searches) in (1, 2) and len(searches) <= line['hops']
    assert right == (len(searches) == line['hops'])
    assert searches[0] in line['question']
    for before, after in zip(searches, [*searches[1:], answer]):
      assert after in by_title[before]


def test_rewriting_keeps_what_is_still_wanted(out, pages):
  twice = [line for line in _lines(out, 'train', 'demonstrations') if len(line['steps']) == 3]
  assert {line['hops'] for line in twice} == {2, 3}
  for line in twice:
    first, second, last = line['steps']
    start, found = first['search'], second['search']
    needed = re.match(r'I need (.*)\.$', first['think'])[1]
    assert needed in line['question'] and needed.endswith(start)
    noun, wanted = re.match(rf'I found the (.*) {found}\. I need (.*)\.$', second['think']).groups()
    assert wanted.endswith(found) and needed.startswith(wanted.removesuffix(found))
    page = next(c for c in pages['train'].values() if _title(c) == start)
    assert f'{noun} {found}.' in page
    rest = rf' I need the .* of {last["answer"]}\.' if line['hops'] == 3 else ''
    assert re.match(rf'I found the \w+( \w+)? {last["answer"]}\.{rest}$', last['think'])


def test_shares_are_the_ones_asked_for(tmp_path):
  shares = world.write(tmp_path, 1, dataclasses.replace(SMALL, second_share=0.5))['demonstrations']
  lines = _lines(tmp_path, 'train', 'demonstrations')
  for hops in (2, 3):
    searches = [len(line['steps']) - 1 for line in lines if line['hops'] == hops]
    assert searches.count(2) == searches.count(1) == len(searches) // 2
  assert json.loads((tmp_path / 'world.json').read_text())['demonstrations']['count'] == 400
  assert shares['by_hops'] == {1: 180, 2: 140, 3: 80}
  assert shares['share_with_one_search'] == (180 + 70 + 40) / 400
  assert shares['share_of_full_chains'] == 70 / 400
  assert shares['share_of_wrong_answers'] == (70 + 80) / 400
  assert shares['longest_full_chain'] == shares['most_searches'] == 2


def test_names_are_few_tokens_and_tags_several(out, pages):
  tokens = tokenizer.load(out / 'tokenizer')
  assert 512 < tokens.vocab_size <= 1472
  mean = {
    split: sum(len(tokens.encode(c)) for c in pages[split].values()) / len(pages[split])
    for split in ('train', 'test')
  }
  assert abs(mean['train'] - mean['test']) < 0.05 * mean['train']
  names = [len(tokens.encode(' ' + _title(c))) for c in pages['test'].values()]
  assert min(names) >= 2 and sum(names) / len(names) < 4
  for tag in ('<think>', '<search>', '</search>', '<result>', '<answer>', '\\boxed{'):
    assert len(tokens.encode(tag)) > 2


def test_nesting_words_inside_out():
  assert ask.nest('Ana Belo', ('employer', 'founder')) == 'the founder of the employer of Ana Belo'


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'documents': 20}, 'documents is 20'),
    ({'train_per_hop': 20000}, 'too few chains of 1 hops'),
    ({'second_share': 1.5}, 'second_share is 1.5'),
    ({'vocabulary': 100}, 'vocab_size is 100'),
  ],
)
def test_impossible_worlds_are_refused_and_nothing_is_written(tmp_path, change, words):
  with pytest.raises(UserError, match=words):
    world.write(tmp_path / 'w', 0, dataclasses.replace(SMALL, **change))
  assert not (tmp_path / 'w').exists()


def test_unwritable_and_missing_folders_are_named(tmp_path):
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(UserError, match='cannot write the world'):
    world.write(tmp_path / 'file', 0, SMALL)
  with pytest.raises(UserError, match='questions.jsonl'):
    world.audit(tmp_path / 'nothing')


def test_world_imports_no_jax(tmp_path):
  code = 'import sys; from jaxsearch import world; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.fixture(scope='module')
def hard(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hard')
  easy, hard = (dataclasses.asdict(world.SIZES[name]) for name in ('default', 'hard'))
  harder = {k: v for k, v in hard.items() if v != easy[k] and not k.endswith('per_hop')}
  return folder, world.write(folder, 3, dataclasses.replace(SMALL, **harder))


def test_in_a_hard_world_pages_name_the_wrong_person_of_the_right_surname(hard):
  folder, _ = hard
  pages = {_title(d['contents']): d['contents'] for d in _lines(folder, 'test', 'corpus')}
  kin = {
    title: found.group(1)
    for title, text in pages.items()
    if (found := re.search(r'cousin (?:named|called) (\w+ \w+)\.', text))
  }
  assert len(kin) > 0.25 * len(pages)  # Four in ten are people.
  for title, other in kin.items():
    assert title.split()[-1] == other.split()[-1] and title != other
    assert title not in pages[other]
  assert len({title.split()[-1] for title in kin}) <= 48
  for question in questions.read(folder / 'test/questions.jsonl'):
    assert not any('cousin' in link['relation'] for link in question.metadata['chain'])
  assert world.audit(folder)['passed']


def test_in_a_hard_world_the_teacher_mostly_does_not_search(hard):
  folder, facts = hard
  shares = facts['demonstrations']
  assert shares['share_without_search'] == 0.55
  for line in _lines(folder, 'train', 'demonstrations'):
    if len(line['steps']) == 1:
      (step,) = line['steps']
      assert step['answer'] in line['question'] and step['answer'] not in line['golden_answers']
      assert step['think'] == f'I need {step["think"][7:-1]}.' and step['answer'] in step['think']
  asked = questions.read(folder / 'train/questions.jsonl')
  assert collections.Counter(q.metadata['hops'] for q in asked) == {1: 30, 2: 60, 3: 60, 4: 60}


@pytest.mark.parametrize('share', ['second_share', 'silent_share'])
def test_a_share_is_a_share(tmp_path, share):
  with pytest.raises(UserError, match=f'{share} is 1.5'):
    world.write(tmp_path, 1, dataclasses.replace(SMALL, **{share: 1.5}))
