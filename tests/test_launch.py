"""The launchers as text: shellcheck, dry runs, the JobSet, and flags of XLA."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import fake_cluster
import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted(
  [
    *LAUNCH.glob('*.sh'),
    *LAUNCH.glob('*.sbatch'),
    *LAUNCH.glob('xla_flags/*.env'),
    ROOT / '.ci/run',
  ]
)
TRAIN = ('train', '--config=configs/mine.py', '--config.run_dir=/bucket/a b')
GKE = {
  'IMAGE': 'place/jaxsearch:1',
  'ACCELERATOR': 'tpu-v5-lite-podslice',
  'TOPOLOGY': '4x4',
  'BUCKET': 'mine',
}
# Golden text -> (variables, words).
DRY_RUNS = {
  'tpu_pod_reused': ({}, ('tpu_pod.sh', 'pod', 'zone-a', *TRAIN)),
  'tpu_pod_created': (
    {
      'TYPE': 'v5litepod-16',
      'VERSION': 'v2-alpha-tpuv5-lite',
      'SPOT': '1',
      'XLA_SET': 'v5e',
      'SETUP': 'mkdir -p bucket && gcsfuse --implicit-dirs mine bucket',
    },
    ('tpu_pod.sh', 'pod', 'zone-a', *TRAIN),
  ),
  'tpu_pod_queued': (
    {
      'TYPE': 'v6e-16',
      'VERSION': 'v2-alpha-tpuv6e',
      'QUEUED': '1',
      'CREATE': '--valid-until-duration=6h --internal-ips',
    },
    ('tpu_pod.sh', 'pod', 'zone-a', *TRAIN),
  ),
  'gke': (GKE, ('gke.sh', 'mine', 'train', '--config=configs/mine.py', '--config.x="a\\b')),
  'gke_spot': (
    {**GKE, 'SPOT': '1', 'XLA_SET': 'v5e', 'ATTEMPTS': '3', 'SERVICE_ACCOUNT': 'trainer'},
    ('gke.sh', 'mine', *TRAIN),
  ),
  'slurm': ({}, ('slurm.sbatch', *TRAIN)),
  'slurm_nodes': (
    {
      'SLURM_JOB_ID': '41',
      'SLURM_JOB_NUM_NODES': '2',
      'SLURM_JOB_NODELIST': 'node[1-2]',
      'SLURM_GPUS_ON_NODE': '8',
    },
    ('slurm.sbatch', *TRAIN),
  ),
  'gpus': ({'GPUS': '0,1'}, ('gpus.sh', *TRAIN)),
  'local_processes': ({}, ('local_processes.sh', '2', *TRAIN)),
  'host': (
    {'XLA_SET': 'h100', 'STAGE_DIR': '/staged'},
    ('host.sh', *TRAIN, '--config.retrieval.index=gs://mine/wiki/', '--index=s3://mine/dev'),
  ),
}

# What a dry run does not print, as tests/test_launch_runs.py asks it.
LOOKS = (
  "gcloud compute tpus tpu-vm list --format='value(state)' --zone=z '--filter=name~/pod$'",
  "gcloud compute tpus queued-resources list --format='value(state.state)' --zone=z --filter=a",
  "gcloud compute tpus tpu-vm describe pod --zone=z --format='value(networkEndpoints.len())'",
)


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path):
  checker = pathlib.Path(sys.executable).parent / 'shellcheck'
  done = subprocess.run(
    [checker, '--external-sources', path], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', DRY_RUNS)
def test_dry_runs_print_what_they_printed(tmp_path, name):
  """After a change that is meant: GOLDEN=write pytest tests/test_launch.py, and read the diff."""
  variables, words = DRY_RUNS[name]
  done = fake_cluster.launch(tmp_path, words, variables, dry_run=True)
  text = done.stdout + done.stderr
  for place, label in ((str(tmp_path), 'TMP'), (sys.executable, 'PYTHON'), (str(ROOT), 'ROOT')):
    text = text.replace(place, label)
  golden = ROOT / 'tests' / 'golden' / f'{name}.txt'
  if os.environ.get('GOLDEN') == 'write':
    golden.write_text(text)
  assert done.returncode == 0 and text == golden.read_text()
  asked = [call for call in fake_cluster.calls(tmp_path) if 'show hostnames' not in call]
  assert not asked and not (tmp_path / 'hosts').exists()


@pytest.mark.parametrize('name', ['gke', 'gke_spot'])
def test_the_jobset_fits_its_schema(tmp_path, name):
  schema = json.loads((ROOT / 'tests' / 'jobset.schema.json').read_text())
  variables, words = DRY_RUNS[name]
  made = yaml.safe_load(fake_cluster.launch(tmp_path, words, variables, dry_run=True).stdout)
  jsonschema.validate(made, schema)
  (job,) = made['spec']['replicatedJobs']
  pod = job['template']['spec']['template']['spec']
  # What a shell might have changed arrives as it was given.
  assert pod['containers'][0]['args'] == list(words[2:])
  assert job['template']['spec']['completions'] == 4
  assert ('cloud.google.com/gke-spot' in pod['nodeSelector']) == ('SPOT' in variables)
  pod['restartPolicies'] = pod.pop('restartPolicy')
  with pytest.raises(jsonschema.ValidationError, match='restartPolicies'):
    jsonschema.validate(made, schema)


@pytest.mark.parametrize(
  'words, said',
  [
    (('tpu_pod.sh', 'pod', 'zone-a'), 'usage'),
    (('gke.sh', 'mine', 'train'), 'IMAGE is not set'),
    (('slurm.sbatch',), 'usage'),
    (('gpus.sh',), 'usage'),
    (('local_processes.sh', 'train'), 'usage'),
    (('stage.sh',), 'usage'),
    (('detached.sh', 'begin'), 'usage'),
  ],
)
def test_what_is_missing_is_said_with_code_two(tmp_path, words, said):
  done = fake_cluster.launch(tmp_path, words)
  assert done.returncode == 2 and said in done.stderr and not fake_cluster.calls(tmp_path)


def test_chips_that_do_not_fill_hosts_are_refused(tmp_path):
  done = fake_cluster.launch(tmp_path, ('gke.sh', 'mine', 'train'), GKE | {'TOPOLOGY': '3x3'})
  assert done.returncode == 2 and '9 chips' in done.stderr


@pytest.mark.parametrize(
  'codes, word',
  [('0 0', 'done'), ('0 75', 'again'), ('75 2', 'mend'), ('0 none', 'again'), ('', 'again')],
)
def test_what_exit_codes_ask_for(codes, word):
  script = f'set -euo pipefail; . {LAUNCH}/common.sh; next_step {codes}'
  assert subprocess.check_output(['bash', '-c', script], text=True) == f'{word}\n'


@pytest.mark.skipif(not shutil.which('gcloud'), reason='gcloud is not installed')
@pytest.mark.slow
def test_gcloud_knows_the_commands(tmp_path):
  """Its own check, which asks nobody."""
  lines = [
    line for path in (ROOT / 'tests/golden').iterdir() for line in path.read_text().split('\n')
  ]
  lines += LOOKS
  # Of a kind one is enough: 'gcloud compute tpus tpu-vm create'.
  commands = {tuple(line.split()[:5]): line for line in lines if line.startswith('gcloud ')}
  assert len(commands) >= 10
  environment = {**os.environ, 'CLOUDSDK_CONFIG': str(tmp_path)}
  checks = {}
  for line in (*commands.values(), 'gcloud compute tpus tpu-vm create pod --zone=z --color=red'):
    lint = ['gcloud', 'meta', 'lint-gcloud-commands', '--command-string', line]
    checks[line] = subprocess.Popen(lint, env=environment, stdout=subprocess.PIPE, text=True)
  for line, check in checks.items():
    (found,) = json.loads(check.communicate()[0])
    assert found['success'] == ('--color' not in line), found['error_message']


def _flags(name):
  """The variables that a set of flags exports."""
  script = f'unset LIBTPU_INIT_ARGS XLA_FLAGS; . {LAUNCH}/xla_flags/{name}.env; env -0'
  lines = subprocess.check_output(['bash', '-c', script], text=True).split('\0')
  return dict(line.partition('=')[::2] for line in lines if line)


def test_every_flag_says_what_it_does():
  for path in LAUNCH.glob('xla_flags/*.env'):
    lines = [line.strip() for line in path.read_text().splitlines()]
    flags = [i for i, line in enumerate(lines) if line.startswith('--')]
    assert flags and 'Source' in path.read_text()
    for i in flags:
      assert lines[i - 1].startswith('#') or (path.stem == 'h100' and lines[i - 1][:2] == '--')


def _compiles(code, **variables):
  """Whether a process of its own runs `code`, and what it said."""
  alone = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}  # It only compiles.
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={**variables, 'JAX_PLATFORMS': 'cpu', **alone},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode == 0, done.stderr


def test_xla_knows_the_flags():
  code, variables = 'import jax; jax.jit(lambda x: x + 1)(1)', _flags('h100')
  compiled, said = _compiles(code, **variables)
  assert compiled, said
  variables['XLA_FLAGS'] += ' --xla_gpu_no_such_flag=1'
  assert not _compiles(code, **variables)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, slice_', [('v4', 'v4:2x2x1'), ('v5e', 'v5e:2x2'), ('v5p', 'v5p:2x2x1'), ('v6e', 'v6e:2x2')]
)
def test_libtpu_knows_the_flags(name, slice_):
  pytest.importorskip('libtpu', reason='pip install -e ".[tpu]" brings the compiler')
  code = f"""
import jax, numpy
from jax.experimental import topologies
devices = topologies.get_topology_desc('{slice_}', platform='tpu').devices
mesh = jax.sharding.Mesh(numpy.array(devices), ('fsdp',))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
x = jax.ShapeDtypeStruct((256, 256), 'bfloat16', sharding=place)
step = jax.grad(lambda w, x: (x @ w).astype('float32').var())
text = jax.jit(step, out_shardings=place).lower(x, x).compile().as_text()
assert 'all-gather' in text and len(devices) > 1
"""
  variables = _flags(name)
  compiled, said = _compiles(code, **variables)
  assert compiled, said
  variables['LIBTPU_INIT_ARGS'] += ' --xla_tpu_no_such_flag=1'
  assert not _compiles(code, **variables)[0]


def test_an_unknown_set_of_flags_is_refused(tmp_path):
  done = fake_cluster.launch(tmp_path, ('host.sh', 'train'), {'XLA_SET': 'v5'})
  assert done.returncode == 2 and 'Choices: h100 v4 v5e v5p v6e.' in done.stderr
