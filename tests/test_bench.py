"""The comparison of recipes: what it reads from runs, what it says of them, that it goes on."""

import dataclasses
import json
import math

import pytest

from jaxsearch import cli, config
from jaxsearch.bench import checks, document, outcome, source
from jaxsearch.bench.plan import Bench

OUTCOME = outcome.Outcome(
  em=0.5,
  searches=2.0,
  malformed=0.0,
  em_by_hops={'1': 1.0, '3': 0.5},
  questions=10,
  generated=1000.0,
  held=1200.0,
  rollouts=50.0,
  signal=0.5,
  signal_all_wrong=0.25,
  minutes=1.0,
  curve=((0.0, 0.1), (1000.0, 0.4)),
  sampled_em=(0.1, 0.2, 0.6),
  dev_searches=(0.5, 1.0),
  dev_f1=(0.1, 0.6),
)


def run(folder, *, em, tokens, seconds=60.0, tested=True, searches=(1.0, 2.0), n=10):
  """A finished run of two updates, as train and eval leave it."""
  folder.mkdir(parents=True)
  lines = [
    {
      'step': step,
      'progress/generated_tokens': tokens * step / 2,
      'group/rollouts': 8.0,
      'reward/em/mean': 0.5,
      'group/frac_with_signal': 0.5,
      'group/frac_with_signal_all_wrong': 0.25,
      'length/policy_tokens_mean': 100.0,
    }
    for step in (0, 1)
  ]
  lines.append({'step': 2, 'progress/generated_tokens': tokens})
  for line, dev_em, f1, asked in zip((lines[0], lines[2]), (0.0, em), (0.1, 0.6), searches):
    by_hops = {'val/searches_by_hops/1': asked - 0.25, 'val/searches_by_hops/2': asked + 0.25}
    line |= {'val/em': dev_em, 'val/f1': f1, **by_hops}
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  usage = {'verb': 'train', 'seconds': seconds, 'peak_rss_mb': 1.0}
  (folder / 'usage.jsonl').write_text(json.dumps(usage) + '\n')
  if tested:
    test(folder / 'eval_after', em, n)


def test(folder, em, n=10):
  folder.mkdir(parents=True)
  by_hops = {'em_by_hops': {'1': em, '2': 0.0}, 'n_by_hops': {'1': 5, '2': 5}}
  summary = {'em': em, 'n': n, 'searches': 2.0, 'malformed': 0.1, **by_hops}
  (folder / 'summary.json').write_text(json.dumps(summary))


test.__test__ = False


def bench(tmp_path, *names, seeds=(0, 1)):
  table, picture = tmp_path / 'new' / 'RECIPES.md', tmp_path / 'new' / 'recipes.png'
  files = {'grpo': 'configs/quickstart.py'} | {name: f'configs/recipes/{name}.py' for name in names}
  return Bench(tmp_path / 'out', table, picture, 'hard', seeds, files, tuple(files))


def test_a_document_of_two_recipes_worked_by_hand(tmp_path):
  b = bench(tmp_path, 'igpo', 'rloo')
  for seed in (0, 1):
    test(b.start(seed) / 'eval_before', 0.1)
    run(b.run('grpo', seed), em=0.4 + 0.2 * seed, tokens=40_100)
    run(b.run('igpo', seed), em=0.5 + 0.2 * seed, tokens=40_100, seconds=90.0)
  run(b.run('rloo', 0), em=0.2, tokens=40_100)
  document.write(b)
  text = b.table.read_text()
  assert '3 methods' in text and '40,000' in text and ' But ' not in text
  where = f'--out={tmp_path}/out --table={b.table} --picture={b.picture} --seeds=0,1'
  assert f'\n    jaxsearch bench recipes {where}\n' in text
  # 0.4 and 0.6: mean 0.5, spread 0.2 / sqrt 2.
  assert (
    '| grpo | 0.50 ± 0.14 | 0.50 | 0.00 | – | – | 2.00 ± 0.00 |  | 0.50 ± 0.00 | 40 k |' in text
  )
  # Of 10 questions: 2 (0.24 + 0.25 + 0.24 + 0.21) / 4 / 10 = 0.047; 2 sqrt(0.047 / 2) = 0.307.
  assert '| +0.10 ± 0.31, nothing shown | 0.50 ± 0.00 | 40 k | 1.5 ± 0.0 | 2 |' in text
  # 2 (0.16 + 0.24) / 2 / 10 = 0.04; 2 sqrt(0.04) = 0.4.
  assert '| rloo | 0.20 |' in text
  assert '| -0.20 ± 0.40, nothing shown | 0.50 | 40 k | 1.0 | 1 |' in text
  assert '`reward.name=igpo`<br>`algo.advantage=turn_returns`' in text
  assert '[arXiv 2510.14967](https://arxiv.org/abs/2510.14967)' in text
  assert '![curves](recipes.png)' in text and b.picture.stat().st_size > 1000


@pytest.mark.parametrize(
  ('ems', 'told'),
  [
    ((0.5, 0.5), '+0.20 ± 0.03, helps'),  # 2 sqrt(2 (0.25 + 0.21) / 2 / 1000 / 2) = 0.030.
    ((0.2, 0.1), '-0.15 ± 0.10, hurts'),  # Of the seeds: 2 sqrt(0.005 / 2) = 0.1.
    ((0.4, 0.3), '+0.05 ± 0.10, nothing shown'),
  ],
)
def test_a_difference_counts_beyond_two_standard_errors(tmp_path, ems, told):
  b = bench(tmp_path, 'rloo')
  for seed in (0, 1):
    test(b.start(seed) / 'eval_before', 0.1, n=1000)
    run(b.run('grpo', seed), em=0.3, tokens=40_100, n=1000)
    run(b.run('rloo', seed), em=ems[seed], tokens=40_100, n=1000)
  document.write(b)
  assert f'| {told} |' in b.table.read_text()


def test_phases_are_added_up(tmp_path):
  b = bench(tmp_path, 'r1_searcher', seeds=(0,))
  folder = b.run('r1_searcher', 0)
  assert b.folders('r1_searcher', 0) == [f'{folder}/stage1', str(folder)]
  run(folder, em=0.6, tokens=2000)
  run(folder / 'stage1', em=0.2, tokens=1000, tested=False, searches=(0.4, 0.9))
  made = outcome.read(b.folders('r1_searcher', 0))
  assert made.generated == 3000 and made.rollouts == 32 and made.held == 3200
  assert made.curve == ((0.0, 0.0), (1000.0, 0.2), (1000.0, 0.0), (3000.0, 0.6))
  assert made.dev_searches == pytest.approx((0.4, 0.9)) and made.dev_f1 == (0.1, 0.6)
  stages = [config.read(path) for path in b.configs('r1_searcher', 0)]
  assert [c.reward.name for c in stages] == ['r1_searcher_stage1', 'r1_searcher_stage2']
  assert stages[1].policy.path == f'{folder}/stage1/policy'
  assert stages[0].policy.path == stages[1].policy.reference == f'{b.start(0)}/warmstart/policy'
  assert sum(c.schedule.generated_tokens for c in stages) == 40_000


def test_every_recipe_is_given_as_many_tokens_and_its_own_folder(tmp_path):
  names = sorted(path.stem for path in document.pathlib.Path('configs/recipes').glob('*.py'))
  b = bench(tmp_path, *names)
  for name in names:
    made = [config.read(path) for path in b.configs(name, 0)]
    assert sum(c.schedule.generated_tokens for c in made) == 40_000, name
    assert made[-1].run_dir == str(b.run(name, 0)), name
    assert not any(c.optimizer.decay_steps for c in made), name


def test_checks_say_no_where_a_thing_is_not_seen():
  changed = lambda **fields: {0: dataclasses.replace(OUTCOME, **fields)}
  runs = {
    'grpo': {0: OUTCOME},
    'shuffled_rewards': changed(sampled_em=(0.1, 0.2, 0.14, 0.1)),
    'random_documents_exact': changed(em=0.16),
    'random_documents': changed(em_by_hops={'3': 0.0}),
    'igpo': changed(signal_all_wrong=0.75),
    'zero_search': changed(em=0.5),
    'fixed_noise': changed(em=0.4),
    'r1_searcher': changed(dev_searches=(0.4, 0.9), dev_f1=(0.3, 0.2)),
    'trees': changed(generated=600.0),
  }
  header, rule, *lines = checks.table(runs, {0: 0.1}, 'grpo').splitlines()
  assert [line.split(' | ')[-1] for line in lines] == [
    'yes |',
    '**no** |',
    'yes |',
    'yes |',
    '**no** |',
    'yes |',
    '**no** |',
    'yes |',
  ]
  # Thirds of four steps: two, one and one.
  assert 'samples 0.15 in the first third of the training, 0.10 in the last' in lines[0]
  assert lines[0].endswith('with plain GRPO 0.10 and 0.60 | yes |')
  assert 'exact match 0.10 before, 0.16 after' in lines[1]
  assert '0.75 have an advantage other than 0, with plain GRPO 0.25' in lines[3]
  # 2 (0.25 + 0.24) / 2 / 10 = 0.049; 2 sqrt(0.049) = 0.44: ten questions show nothing.
  assert 'exact match 0.50, fixed 0.40: +0.10 ± 0.44' in lines[4]
  # 600 tokens of 50 rollouts against 1000; rows of 1200 tokens made of 600.
  assert '12 tokens a row, with plain GRPO 20; the rows of trees hold 2.00 times' in lines[7]
  assert checks.table({'grpo': {0: OUTCOME}}, {0: 0.1}, 'grpo').count('\n') == 2


def test_lines_of_code_are_counted_by_hand(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    '"""Mine (arXiv 2401.00001): text.\n\nmore\n"""\n\nfrom configs import quickstart\n\n\n'
    'def get_config(a):\n  """Doc."""\n  # Why.\n  c = quickstart.get_config(a)\n\n'
    "  c.algo.advantage = 'raw_reward'\n  return c\n"
  )
  plain, mine = config.Config(), config.Config(run_dir='other')
  told = source.read(str(file), [mine], plain)
  assert (told.lines, told.changes) == (4, ())
  assert told.title == 'Mine ([arXiv 2401.00001](https://arxiv.org/abs/2401.00001)): text.'
  mine.algo.selector, mine.optimizer.learning_rate = 'every', 0.25
  assert source.read(str(file), [mine], plain).changes == ('optimizer.learning_rate=0.25',)
  mine.algo.selector = 'unless_capped'  # A def and a return.
  assert source.read(str(file), [mine], plain).lines == 6
  # Of both phases, each once; a term is a def and a return.
  other = dataclasses.replace(mine, algo=dataclasses.replace(mine.algo, kl_coef=0.5))
  other.algo.terms = 'positive_likelihood=0.1,kl_to_old=2'
  told = source.read(str(file), [mine, other], plain)
  assert told.changes == (
    'algo.selector=unless_capped',
    'optimizer.learning_rate=0.25',
    'algo.kl_coef=0.5',
    'algo.terms=positive_likelihood=0.1,kl_to_old=2',
  )
  assert told.lines == 10
  file.write_text('def get_config(a):\n  return a\n')
  assert source.read(str(file), [plain], plain).title == 'mine'


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
  def refused(*arguments):
    assert cli.main(['bench', *arguments, f'--out={tmp_path}/out']) == 2
    return capsys.readouterr().err

  assert "no recipe 'igp'" in refused('recipes', '--only=igp')
  assert "Did you mean 'igpo'?" in refused('recipes', '--only=igp')
  said = refused('engines')
  assert "bench 'engines': say what to compare; allowed: recipes, rollout, step." in said
  assert "bench '--seeds=0': say what to compare" in refused('--seeds=0')
  assert "--seeds is 'x'" in refused('recipes', '--seeds=x')


def test_a_run_of_another_configuration_is_not_counted(tmp_path, capsys):
  b = bench(tmp_path, 'rloo', seeds=(0,))
  for name, advantage in (('grpo', 'group_zscore'), ('rloo', 'group_mean')):
    run(b.run(name, 0), em=0.5, tokens=100)
    made = config.read(b.configs(name, 0)[0])
    made.algo.advantage = advantage
    written = dataclasses.asdict(made)
    del written['algo']['terms']  # A field younger than the run.
    (b.run(name, 0) / 'config.json').write_text(json.dumps(written))
  assert cli.main(['bench', 'recipes', f'--out={b.out}', '--seeds=0', '--only=rloo']) == 2
  said = capsys.readouterr().err
  assert "algo.advantage was 'group_mean' and is 'leave_one_out'. Remove that folder" in said


def test_a_folder_holds_one_size(tmp_path, capsys):
  arguments = ['bench', 'recipes', f'--out={tmp_path}', '--minutes=1e-9']
  assert cli.main([*arguments, '--size=hard-ci']) == 0
  assert 'is written' not in capsys.readouterr().out  # Nothing is finished.
  assert cli.main(arguments) == 2
  assert (
    f'{tmp_path} holds runs of --size=hard-ci; choose another --out.' in capsys.readouterr().err
  )


def test_a_start_that_fails_is_tried_and_told_once(tmp_path, capsys):
  (tmp_path / 'start/0').mkdir(parents=True)
  (tmp_path / 'start/0/world').write_text('in the way')
  assert cli.main(['bench', 'recipes', f'--out={tmp_path}', '--seeds=0', '--only=igpo,rloo']) == 2
  said = capsys.readouterr()
  assert said.out.count('failed') == 1
  assert said.err.count(f'{tmp_path}/start/0: `jaxsearch world` failed, log.txt in there') == 1
  log = (tmp_path / 'start/0/log.txt').read_text()
  assert log.count('== world') == 1 and 'choose a folder that you may' in log


def test_the_header_names_recipes_that_it_is_not_true_of(tmp_path):
  b = bench(tmp_path, 'ssrl', seeds=(0,))
  run(b.run('ssrl', 0), em=0.1, tokens=40_100)
  test(b.start(0) / 'eval_before', 0.1)
  document.write(b)
  text = b.table.read_text()
  assert 'But ssrl has a warm start of its own, not counted here; ssrl is tested without' in text


def test_no_run_is_begun_when_the_time_is_over(tmp_path, capsys):
  arguments = ['bench', 'recipes', f'--out={tmp_path}/out', '--minutes=1e-9', '--only=rloo']
  assert cli.main(arguments) == 0
  assert 'minutes are over; the same command goes on from here.' in capsys.readouterr().out
  assert not (tmp_path / 'out' / 'grpo').exists()


@pytest.mark.slow
def test_a_comparison_is_made_and_not_made_twice(tmp_path, capsys):
  arguments = ['bench', 'recipes', f'--out={tmp_path}/out', '--size=hard-ci', '--seeds=0']
  arguments += ['--only=stratified']
  assert cli.main(arguments) == 0, capsys.readouterr()
  capsys.readouterr()
  table = tmp_path / 'out' / 'RECIPES.md'
  text = table.read_text()
  table.unlink()
  assert cli.main(arguments) == 0
  assert table.read_text() == text and 'seed 0' not in capsys.readouterr().out
  for name in ('grpo', 'stratified'):
    lines = [json.loads(x) for x in (tmp_path / f'out/{name}/0/metrics.jsonl').open()]
    tokens = [line['progress/generated_tokens'] for line in lines]
    assert tokens[0] == 0 and tokens[-2] < 1500 <= tokens[-1]
    assert math.isfinite(lines[-1]['val/em'])
