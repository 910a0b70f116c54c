"""What cannot work is refused: every problem, together, before anything is written."""

import operator

import pytest

from jaxsearch import files, validation
from jaxsearch.config import Config
from jaxsearch.types import UserError


@pytest.fixture
def working(tmp_path):
  """A configuration whose files are all there."""
  for folder in ('policy', 'index'):
    (tmp_path / folder).mkdir()
  (tmp_path / 'policy' / 'tokenizer.json').write_text('{}')
  (tmp_path / 'q.jsonl').write_text('')
  c = Config(run_dir=str(tmp_path / 'runs' / 'new'))
  c.policy.path = c.model.tokenizer = str(tmp_path / 'policy')
  c.questions.train = c.questions.dev = c.warmstart.demonstrations = str(tmp_path / 'q.jsonl')
  c.retrieval.index = c.eval_retrieval.index = str(tmp_path / 'index')
  return c


def _set(config, name, value):
  section, _, leaf = name.rpartition('.')
  setattr(operator.attrgetter(section)(config) if section else config, leaf, value)


def _problems(config, verb='train', hosts=1):
  with pytest.raises(UserError) as caught:
    validation.validate(config, verb, hosts=hosts)
  return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize('verb', ['warmstart', 'collect', 'train', 'eval', 'ask', 'serve'])
def test_what_works_passes_and_leaves_no_trace(working, tmp_path, verb):
  validation.validate(working, verb, hosts=2)
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
  ('name', 'value', 'allowed'),
  [
    ('mesh.tensor', 0, 'at least 1, or -1'),
    ('mesh.tensor', -2, 'at least 1, or -1'),
    ('mesh.fsdp', -1, 'one -1 only, and mesh.data is -1 already'),
    ('mesh.sample_tensor', 0, 'above 0'),
    ('mesh.tensor', 4, 'a multiple of mesh.tensor = 4'),  # Two key heads.
    ('model.kv_heads', 3, 'a divisor of 4 heads'),
    ('model.head_size', 33, 'even'),
    ('learner.buckets', (512, 256, 1024), 'positive lengths, ascending'),
    ('learner.buckets', (), 'positive lengths, ascending'),
    ('learner.buckets', (256, 512), 'at least rollout.context_tokens = 1024'),
    ('rollout.policy_tokens', 1024, 'below rollout.context_tokens = 1024'),
    ('rollout.temperature', 0.0, 'above 0'),
    ('rollout.cache', 'blocks', "Did you mean 'blocked'?"),
    ('retrieval.dialect', 'search-r1', "Did you mean 'search_r1'?"),
    ('policy.attention', 'splish', "Did you mean 'splash'?"),
    ('rollout.block_tokens', 0, 'above 0'),
    ('rollout.max_searches', -1, '0 or more'),
    ('retrieval.top_k', 0, 'above 0'),
    ('algo.group_size', 1, 'at least 2'),
    ('algo.clip_low', 1.0, 'from 0 to below 1'),
    ('algo.kl_coef', -0.1, '0 or more'),
    ('optimizer.learning_rate', 0.0, 'above 0'),
    ('warmstart.optimizer.learning_rate', 0.0, 'above 0'),
    ('warmstart.optimizer.decay_steps', -1, '0 or more'),
    ('warmstart.optimizer.b2', 1.0, 'from 0 to below 1'),
    ('algo.advantage', 'group_zscor', "Did you mean 'group_zscore'?"),
    ('algo.kl', 'k9', 'k1, k2, k3'),
    ('algo.terms', 'kl_to_odl=0.1', "Did you mean 'kl_to_old'?"),
    ('algo.terms', 'kl_to_old=nan', "'kl_to_old=nan' is not NAME=WEIGHT"),
    ('algo.terms', 'kl_to_old', 'with a finite weight'),
    ('algo.selector', 'evry', "Did you mean 'every'?"),
    ('algo.updates_per_batch', 99, 'at most algo.questions_per_step'),
    ('algo.importance_cap', 2.0, "algo.old_logprobs='learner'"),
    ('retrieval.noise_end', 1.5, 'at most 1'),
    ('algo.loss_norm', 'tokens', "Did you mean 'token'?"),
    ('protocol.name', 'reserch', "Did you mean 'research'?"),
    ('protocol.form', 'chat', 'base, instruct'),
    ('retrieval.backend', 'bm52', "Did you mean 'bm25'?"),
    ('reward.name', '_contract', 'research'),
    ('policy.dtype', 'float16', 'bfloat16, float32'),
    ('policy.path', '/nowhere', 'a policy folder, with a tokenizer.json'),
    ('questions.train', '/nowhere', 'an existing JSON lines or Parquet file'),
    ('eval_retrieval.index', '', 'jaxsearch index'),
    ('protocol.prompt', '/nowhere', 'a text file, or empty'),
    ('run_dir', '', 'empty'),
    ('run_dir', '/proc/run', 'no file can be made in /proc'),
    ('algo.group_size', '8', 'a int'),
    ('policy.scan', 1, 'a bool'),
    ('learner.buckets', (256, 'x'), 'a tuple'),
  ],
)
def test_each_problem_is_told(working, name, value, allowed):
  _set(working, name, value)
  lines = _problems(working)
  if not isinstance(value, str) or '/' not in value:
    assert any(name in line and repr(value) in line and allowed in line for line in lines), lines
  else:
    assert len(lines) == 1 and name in lines[0] and value in lines[0] and allowed in lines[0]


def test_all_problems_are_told_together(working):
  working.rollout.slots = 0
  working.algo.group_size = '8'
  working.algo.grup_size = 4
  working.questions.dev = '/nowhere'
  working.reward.name = 'bleu'
  lines = _problems(working)
  assert len(lines) == 5
  assert "'algo.grup_size'" in lines[0] and "Did you mean 'algo.group_size'?" in lines[0]


def test_questions_split_evenly_over_hosts(working):
  validation.validate(working, 'train', hosts=8)
  assert 'a multiple of the 3 hosts' in _problems(working, hosts=3)[0]


def test_a_chunk_fits_into_a_block(working):
  working.rollout.block_tokens = working.rollout.extend_tokens - 1
  validation.validate(working, 'train')  # The dense cache has no blocks.
  working.rollout.cache = 'blocked'
  assert 'rollout.block_tokens' in _problems(working)[0]


@pytest.mark.parametrize(
  'section, field, value, says',
  [
    ('rollout', 'block_tokens', 96, 'a multiple of 64'),
    ('policy', 'dtype', 'bfloat16', 'float32'),
    ('mesh', 'sample_tensor', 2, 'uses all cores as it is'),
    ('rollout', 'cache_dtype', 'int8', "rollout.cache='blocked' or 'paged'"),
  ],
)
def test_kernels_for_cpus_take_what_they_were_written_for(working, section, field, value, says):
  working.rollout.cache = 'native'
  validation.validate(working, 'train')
  setattr(getattr(working, section), field, value)
  (problem,) = _problems(working)
  assert f'{section}.{field} is {value!r}; allowed: ' in problem and says in problem


def test_a_verb_needs_only_its_own_files(working):
  working.questions.train = working.retrieval.index = working.run_dir = ''
  validation.validate(working, 'eval')
  assert len(_problems(working)) == 3


def test_a_warm_start_begins_with_a_tokenizer_or_a_policy(working):
  working.warmstart.policy, working.model.tokenizer = working.model.tokenizer, ''
  validation.validate(working, 'warmstart')
  working.warmstart.policy = '/nowhere'
  (line,) = _problems(working, 'warmstart')
  assert "warmstart.policy is '/nowhere'" in line and 'a policy folder' in line


def test_a_backend_without_index_needs_none(working):
  working.retrieval.index, working.retrieval.backend = '', 'none'
  validation.validate(working, 'train')


def test_a_simulator_needs_questions_a_policy_and_a_prompt_with_places(working, tmp_path):
  r = working.retrieval
  r.index, r.backend, r.simulator = '', 'engine_simulator', working.policy.path
  (line,) = _problems(working)
  assert "retrieval.questions is ''" in line
  r.questions, r.prompt = working.questions.train, str(tmp_path / 'p.txt')
  (line,) = _problems(working)
  assert 'retrieval.prompt is' in line and 'a text file, or empty' in line
  (tmp_path / 'p.txt').write_text('{query}')
  (line,) = _problems(working)
  assert 'a file with {query} and {kind} in it' in line
  (tmp_path / 'p.txt').write_text('{query} {kind}')
  validation.validate(working, 'train')
  (tmp_path / 'p.txt').unlink()
  validation.validate(working, 'eval')  # Which asks `eval_retrieval`.


def test_reference_is_needed_only_with_a_kl_term(working):
  working.policy.reference = '/nowhere'
  validation.validate(working, 'train')
  working.algo.kl_coef = 0.001
  assert 'policy.reference' in _problems(working)[0]


def test_prompt_file_fits_the_form(working, tmp_path):
  prompt = tmp_path / 'prompt.txt'
  working.protocol.prompt = str(prompt)
  prompt.write_text('Answer {question}')
  validation.validate(working, 'train')
  prompt.write_text('Answer.')
  assert 'with {question}' in _problems(working)[0]
  working.protocol.form = 'instruct'  # The file is the system message, or with it the user's.
  validation.validate(working, 'train')


def test_a_file_is_not_a_folder_to_write_to(tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'Not a directory' in files.unwritable(str(tmp_path / 'file' / 'run'))
  assert files.unwritable(str(tmp_path / 'a' / 'b')) == ''
  assert list(tmp_path.iterdir()) == [tmp_path / 'file']
