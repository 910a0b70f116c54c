"""Rewards: ReSearch's gates by hand, and what every file in rewards/ must keep."""

import dataclasses
import inspect
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxsearch import config, plugins
from jaxsearch.protocols import research as research_protocol
from jaxsearch.protocols._contract import Protocol
from jaxsearch.rewards import research
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import (
  Document,
  Kind,
  Outcome,
  Question,
  Response,
  SearchResult,
  Status,
  Turn,
)

QUESTION = Question('q', 'Who was it?', ('Barack Obama', 'President Obama'))
THINK = '<think> hm </think>\n'
SEARCH = '<think> hm </think>\n<search> who </search>'
FOUND = '\n<result>\nObama\nBarack Obama <answer> \\boxed{Barack Obama} </answer>\n</result>\n'


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizer_lib.Tokenizer:
  folder: pathlib.Path = tmp_path_factory.mktemp('tokenizer')
  tokenizer_lib.train(['some text'], 260, folder)
  return tokenizer_lib.load(folder)


@pytest.fixture(scope='module')
def protocol(tokenizer: tokenizer_lib.Tokenizer) -> research_protocol.Research:
  return research_protocol.open(config.Protocol(), tokenizer)


def box(text: str) -> str:
  return f'<answer> \\boxed{{{text}}} </answer>'


def policy(text: str, status: Status = Status.EOS) -> Response:
  return Response(((Kind.POLICY, text),), status, ())


def searched(text: str, status: Status = Status.EOS) -> Response:
  parts = ((Kind.POLICY, SEARCH), (Kind.OBSERVATION, FOUND), (Kind.POLICY, text))
  return Response(parts, status, ())


LONG = ' '.join(['Obama', *(f'w{n}' for n in range(38))])  # 39 words, one of them right.

# response, reward, EM, cover EM, F1, format
TABLE = {
  'right': (policy(THINK + box('barack  obama.')), 1, 1, 1, 1, 1),
  'right after a search': (searched(THINK + box('Barack Obama')), 1, 1, 1, 1, 1),
  'half: P 1, R 1/2': (policy(THINK + box('Obama')), 2 / 3, 0, 0, 2 / 3, 1),
  'too much: P 2/3, R 1': (policy(THINK + box('Mr Barack Obama')), 0.8, 0, 1, 0.8, 1),
  'wrong, floor': (policy(THINK + box('Angela Merkel')), 0.1, 0, 0, 0, 1),
  'below the floor: 2/41': (policy(THINK + box(LONG)), 2 / 41, 0, 0, 2 / 41, 1),
  'empty box is wrong': (policy(THINK + box('')), 0.1, 0, 0, 0, 1),
  'right, cut off': (policy(THINK + box('Barack Obama'), Status.CONTEXT_CAP), 0, 1, 1, 1, 1),
  'right, tokens spent': (
    searched(THINK + box('Barack Obama'), Status.POLICY_TOKEN_CAP),
    0,
    1,
    1,
    1,
    1,
  ),
  'right, no thought': (policy(box('Barack Obama')), 0, 1, 1, 1, 0),
  'right, answered twice': (policy(THINK + box('no') + box('Barack Obama')), 0, 1, 1, 1, 0),
  'right, search left open': (policy(THINK + '<search>' + box('Barack Obama')), 0, 1, 1, 1, 0),
  'box not closed': (policy(THINK + '<answer> \\boxed{Barack {Obama} </answer>'), 0, 0, 0, 0, 1),
  'box outside the answer': (policy(THINK + '\\boxed{Barack Obama}'), 0, 0, 0, 0, 0),
  'answer only in a document': (searched(THINK + 'so.'), 0, 0, 0, 0, 0),
  'wrong, right in a document': (searched(THINK + box('Merkel')), 0.1, 0, 0, 0, 1),
  'searches spent': (policy(SEARCH, Status.TURN_CAP), 0, 0, 0, 0, 0),
  'nothing at all': (policy(''), 0, 0, 0, 0, 0),
  'retriever broke': (searched(THINK + box('Barack Obama'), Status.INFRA), 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize('case', TABLE)
def test_by_hand(case: str, protocol: research_protocol.Research) -> None:
  response, *numbers = TABLE[case]
  (scores,) = research.reward(QUESTION, [response], protocol)
  expected = dict(zip(('reward', 'em', 'cover_em', 'f1', 'format'), numbers))
  assert scores == pytest.approx(expected, abs=1e-12)


def test_a_verdict_must_match(protocol: research_protocol.Research) -> None:
  question = Question('q', 'Is it?', ('yes',))
  rollouts = [policy(THINK + box(text)) for text in ('Yes', 'yes it is', 'no')]
  scores = research.reward(question, rollouts, protocol)
  assert [s['reward'] for s in scores] == [1.0, 0.1, 0.1]


def test_rollouts_keep_their_order(protocol: research_protocol.Research) -> None:
  responses = [row[0] for row in TABLE.values()]
  rewards = [s['reward'] for s in research.reward(QUESTION, responses, protocol)]
  assert rewards == pytest.approx([row[1] for row in TABLE.values()])


TURN = Turn(('who',), (), 0, Outcome.EMPTY, 0.0, segment=2)


def judged(
  name: str, question: Question, responses: list[Response], protocol: Protocol
) -> list[dict[str, float]]:
  """The rows of a reward; what it asks the engine is answered with certainty."""
  made = plugins.load('rewards', name).reward(question, responses, protocol)
  if not inspect.isgenerator(made):
    return made
  requests = next(made)
  assert all(0 <= r.rollout < len(responses) and r.text for r in requests)
  with pytest.raises(StopIteration) as stop:
    made.send([np.zeros(3, np.float32) for _ in requests])
  return stop.value.value


def scored(name: str, protocol: Protocol, *texts: str, turns: tuple[Turn, ...] = ()) -> list[float]:
  """Rewards of responses of one policy text each."""
  responses = [Response(((Kind.POLICY, text),), Status.ANSWER, turns) for text in texts]
  return [row['reward'] for row in judged(name, QUESTION, responses, protocol)]


@pytest.fixture(scope='module')
def search_r1(tokenizer: tokenizer_lib.Tokenizer) -> Protocol:
  return plugins.load('protocols', 'search_r1').open(config.Protocol(), tokenizer)


def test_em_and_f1_by_hand(search_r1: Protocol) -> None:
  texts = ('<answer>barack obama.</answer>', '<answer> Obama </answer>', 'Barack Obama', '')
  assert scored('em', search_r1, *texts) == [1.0, 0.0, 0.0, 0.0]
  assert scored('f1', search_r1, *texts) == pytest.approx([1.0, 2 / 3, 0.0, 0.0])
  # The last answer counts.
  assert scored('em', search_r1, texts[1] + texts[0], texts[0] + texts[1]) == [1.0, 0.0]


def test_em_format_by_hand(search_r1: Protocol) -> None:
  right, wrong = '<answer>Barack Obama</answer>', '<answer>Merkel</answer>'
  thought = '<think>so</think> '
  texts = (thought + right, right, thought + wrong, wrong, thought, '')
  assert scored('em_format', search_r1, *texts) == [1.0, 0.8, 0.2, 0.1, 0.0, 0.0]


FINE = ' so </think> <answer> {} </answer>'
OPEN = ' so <answer> {} </answer>'  # Never stops thinking.


@pytest.mark.parametrize(
  ('name', 'searched', 'expected'),
  [
    # Right, half right, right but malformed, no answer.
    ('r1_searcher_stage1', True, [1.0, 1.0, 0.5, 0.5]),
    ('r1_searcher_stage1', False, [0.5, 0.5, 0.0, 0.0]),
    ('r1_searcher_stage1_llama', True, [2.0, 0.0, 1.5, -0.5]),
    ('r1_searcher_stage1_llama', False, [1.5, -0.5, 1.0, -1.0]),
    ('r1_searcher_stage2', False, [1.0, 2 / 3, -1.0, -2.0]),
    ('r1_searcher_stage2_llama', False, [1.0, 2 / 3, 0.0, -1.0]),
    ('r1_searcher_zero', False, [1.0, 2 / 3, -1.0, -2.0]),
  ],
)
def test_r1_searcher_by_hand(
  name: str, searched: bool, expected: list[float], tokenizer: tokenizer_lib.Tokenizer
) -> None:
  protocol = plugins.load('protocols', 'r1_searcher').open(config.Protocol(), tokenizer)
  right = 'Obama, Barack' if name == 'r1_searcher_stage1_llama' else 'Barack Obama'
  texts = (FINE.format(right), FINE.format('Obama'), OPEN.format(right), ' so')
  found = scored(name, protocol, *texts, turns=(TURN,) if searched else ())
  assert found == pytest.approx(expected)


def test_r1_searcher_zero_punishes_once(tokenizer: tokenizer_lib.Tokenizer) -> None:
  protocol = plugins.load('protocols', 'r1_searcher').open(config.Protocol(), tokenizer)
  long = 'Barack Obama' + ' and more' * 5
  texts = (' 東' + FINE, ' Assistant:' + FINE, ' Assistant 東' + OPEN)
  found = scored('r1_searcher_zero', protocol, *(t.format('Barack Obama') for t in texts))
  assert found == [-1.0, -1.0, -1.0]
  (punished,) = scored('r1_searcher_zero', protocol, FINE.format(long))
  assert punished == pytest.approx(2 * 2 / (12 + 2) - 2.0)
  (llama,) = scored('r1_searcher_stage2_llama', protocol, texts[0].format('Barack Obama'))
  assert llama == 0.0


def test_ssrl_by_hand(tokenizer: tokenizer_lib.Tokenizer) -> None:
  protocol = plugins.load('protocols', 'ssrl').open(config.Protocol(), tokenizer)
  thought, recalled = '<think>a</think>', '<search>q</search><information>it</information>'
  right = '<answer>Barack Obama</answer>'
  # One thought of the one wanted; two of two; one of two; three of two; right but malformed.
  texts = (
    thought + right,
    thought + recalled + thought + right,
    thought + recalled + right,
    thought + recalled + thought * 2 + right,
    right,
    thought + '<answer>Merkel</answer>',
  )
  expected = [0.95, 1.0, 0.9 + 0.1 * 0.5 * 0.5, 0.9 + 0.1 * 2 / 3, 0.9, 0.05]
  assert scored('ssrl', protocol, *texts) == pytest.approx(expected)


def test_igpo_by_hand(protocol: research_protocol.Research) -> None:
  """A search is paid what it adds to the probability of the best accepted answer."""
  notice = (Kind.OBSERVATION, 'A notice.')
  parts = ((Kind.POLICY, SEARCH), (Kind.OBSERVATION, FOUND), (Kind.POLICY, 'so'), notice)
  turns = (TURN, dataclasses.replace(TURN, segment=6))
  more = ((Kind.POLICY, SEARCH), (Kind.OBSERVATION, FOUND))
  answers = (box('Obama'), 'no answer')
  responses = [Response((*parts, *more, (Kind.POLICY, a)), Status.EOS, turns) for a in answers]
  made = plugins.load('rewards', 'igpo').reward(QUESTION, responses, protocol)
  requests = next(made)
  assert {(r.rollout, r.turns) for r in requests} == {(i, k) for i in (0, 1) for k in (0, 1, 2)}
  assert {r.text.strip() for r in requests} == set(QUESTION.golden_answers)
  assert all(r.lead.endswith('\\boxed{') and r.text.startswith(' ') for r in requests)
  # Both answers have two tokens; the first is the likelier one after one search, then the second.
  beliefs = {0: (0.1, 0.05), 1: (0.4, 0.2), 2: (0.3, 0.5)}
  told = [beliefs[r.turns][r.text == ' President Obama'] for r in requests]
  logprobs = [np.log([p * 2, p / 2]).astype(np.float32) for p in told]
  with pytest.raises(StopIteration) as stop:
    made.send(logprobs)
  half, bad = stop.value.value
  named = lambda row: {k: row[f'turn/{k}'] for k in range(4) if f'turn/{k}' in row}
  # The third policy segment is the second search; the second one was answered with a notice.
  assert named(half) == pytest.approx({0: 0.3, 2: 0.1, 3: 2 / 3}, abs=1e-6)
  assert named(bad) == pytest.approx({0: 0.3, 2: 0.1, 3: -2.0}, abs=1e-6)
  assert (half['reward'], bad['reward']) == (pytest.approx(2 / 3), -2.0)


@pytest.mark.parametrize('protocol_name', plugins.names('protocols'))
@pytest.mark.parametrize('name', plugins.names('rewards'))
def test_contract(name: str, protocol_name: str, tokenizer: tokenizer_lib.Tokenizer) -> None:
  protocol = plugins.load('protocols', protocol_name).open(config.Protocol(), tokenizer)
  question = Question('q', protocol.render_step({'think': 'x', 'answer': 'Ola'}), ('Ola',))
  document = Document('d', 'Ola', protocol.render_step({'think': 'x', 'answer': 'Ola'}))
  found = protocol.observation(SearchResult(Outcome.OK, ((document,),)), 1)
  search = protocol.render_step({'think': 'x', 'search': 'Ola'})

  turn = Turn(('Ola',), ((document,),), 1, Outcome.OK, 0.0, segment=2)

  def after_a_search(text: str, status: Status = Status.EOS) -> Response:
    prompt = tokenizer.text_of(protocol.prompt_ids(question))
    parts = ((Kind.PROMPT, prompt), (Kind.POLICY, search), (Kind.OBSERVATION, found))
    return Response((*parts, (Kind.POLICY, text)), status, (turn,))

  right, wrong = (protocol.render_step({'think': 'x', 'answer': a}) for a in ('Ola', 'Nemi'))
  if not protocol.stops:  # The policy writes what it recalls.
    search += protocol.observation(SearchResult(Outcome.OK, ((Document('e', '', 'So.'),),)), 1)
  responses = [
    after_a_search(right),
    after_a_search(wrong),
    after_a_search('', Status.TURN_CAP),
    after_a_search('no answer'),
    after_a_search(right, Status.INFRA),
  ]
  scores = judged(name, question, responses, protocol)
  assert len(scores) == len(responses)
  assert all(math.isfinite(value) for row in scores for value in row.values())
  # The same names for every rollout, but for those of its turns.
  assert len({frozenset(n for n in row if n[:5] != 'turn/') for row in scores}) == 1
  right, wrong, *silent, lost = (row['reward'] for row in scores)
  assert lost == 0.0
  if name != 'r1_searcher_stage1':  # It pays for searching and for nothing else.
    assert right > wrong and all(value <= 0.0 for value in silent)


@pytest.mark.parametrize('name', plugins.names('rewards'))
def test_importing_a_reward_imports_no_jax(name: str) -> None:
  code = (
    f"import sys; from jaxsearch import plugins; plugins.load('rewards', {name!r}); "
    "assert 'jax' not in sys.modules and 'torch' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], check=True)
