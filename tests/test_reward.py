"""Rewards: ReSearch's gates by hand, and what every file in rewards/ must keep."""

import math
import pathlib
import subprocess
import sys

import pytest

from jaxsearch import config, plugins
from jaxsearch.protocols import research as research_protocol
from jaxsearch.rewards import research
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.types import Document, Kind, Outcome, Question, Response, SearchResult, Status

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


@pytest.mark.parametrize('protocol_name', plugins.names('protocols'))
@pytest.mark.parametrize('name', plugins.names('rewards'))
def test_contract(name: str, protocol_name: str, tokenizer: tokenizer_lib.Tokenizer) -> None:
  reward = plugins.load('rewards', name).reward
  protocol = plugins.load('protocols', protocol_name).open(config.Protocol(), tokenizer)
  question = Question('q', protocol.render_step({'think': 'x', 'answer': 'Ola'}), ('Ola',))
  document = Document('d', 'Ola', protocol.render_step({'think': 'x', 'answer': 'Ola'}))
  found = protocol.observation(SearchResult(Outcome.OK, ((document,),)), 1)
  search = protocol.render_step({'think': 'x', 'search': 'Ola'})

  def after_a_search(text: str, status: Status = Status.EOS) -> Response:
    prompt = tokenizer.text_of(protocol.prompt_ids(question))
    parts = ((Kind.PROMPT, prompt), (Kind.POLICY, search), (Kind.OBSERVATION, found))
    return Response((*parts, (Kind.POLICY, text)), status, ())

  right, wrong = (protocol.render_step({'think': 'x', 'answer': a}) for a in ('Ola', 'Nemi'))
  responses = [
    after_a_search(right),
    after_a_search(wrong),
    after_a_search('', Status.TURN_CAP),
    after_a_search('no answer'),
    after_a_search(right, Status.INFRA),
  ]
  scores = reward(question, responses, protocol)
  assert len(scores) == len(responses)
  assert all(math.isfinite(value) for row in scores for value in row.values())
  assert len({frozenset(row) for row in scores}) == 1  # The same names for every rollout.
  right, wrong, *silent = (row['reward'] for row in scores)
  assert right > wrong
  assert silent == [0.0, 0.0, 0.0]


@pytest.mark.parametrize('name', plugins.names('rewards'))
def test_importing_a_reward_imports_no_jax(name: str) -> None:
  code = (
    f"import sys; from jaxsearch import plugins; plugins.load('rewards', {name!r}); "
    "assert 'jax' not in sys.modules and 'torch' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], check=True)
