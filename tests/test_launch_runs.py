"""The launchers at work, on slices and nodes that are folders of this machine: fake_cluster.py."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import fake_cluster
import psutil
import pytest
import tiny

from jaxsearch import metrics

LAUNCH = tiny.ROOT / 'launch'
SLICE = {'TYPE': 'v5litepod-16', 'VERSION': 'v2-alpha-tpuv5-lite', 'ATTEMPTS': '5'}
STARTS = 'detached.sh start'
ONE_BUCKET = {'learner__buckets': '(128,)'}  # There is less to compile.


@pytest.fixture
def cluster(tmp_path):
  """A folder for a cluster, and the environment in which its commands are found."""
  return tmp_path, {**tiny.variables(), **fake_cluster.install(tmp_path), **SLICE}


def _stand_in(folder, script):
  """Lets a few lines of shell stand for the verb on every host."""
  path = folder / 'verb'
  path.write_text(f'#!/bin/sh\n{script}\n')
  path.chmod(0o755)


def _pod(environment, *verb):
  return subprocess.run(
    [str(LAUNCH / 'tpu_pod.sh'), 'pod', 'zone-a', *(verb or ('train',))],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def _count(folder, what):
  return sum(what in call for call in fake_cluster.calls(folder))


@pytest.mark.slow
def test_a_preempted_slice_is_created_anew_and_the_run_goes_on(cluster, tiny_folder):
  """Two processes really train; the slice goes when the first checkpoint is there."""
  folder, environment = cluster
  run = tiny_folder / 'preempted'
  (folder / 'preempt').write_text(f'{run}/checkpoints/1')
  options = {'schedule__steps': 2, 'schedule__eval_every': 2, **ONE_BUCKET}
  done = _pod(environment, *tiny.command('train', tiny_folder, 'preempted', **options))
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'PREEMPTED' in done.stdout and not (folder / 'preempt').exists()
  for what, times in (('tpu-vm create', 2), ('tpu-vm delete', 1), (STARTS, 2)):
    assert _count(folder, what) == times, what
  assert [line['step'] for line in metrics.read(run)] == [0, 1, 2]
  assert (run / 'policy' / 'params').is_dir()
  first, second = (re.findall(r'step +(\d)/2', part) for part in done.stdout.split('PREEMPTED'))
  assert '0' in first and '0' not in second and second[-1] == '2', done.stdout


@pytest.mark.slow
def test_slurm_trains_with_a_process_per_node(cluster, tiny_folder):
  folder, environment = cluster
  environment |= {'SLURM_SUBMIT_DIR': str(folder), 'SLURM_JOB_NODELIST': 'node[1-2]'}
  environment |= {'SLURM_JOB_ID': str(os.getpid()), 'SLURM_JOB_NUM_NODES': '2'}
  environment |= {'PYTHON': sys.executable, 'JAX_LOGGING_LEVEL': 'INFO'}
  (folder / 'launch').symlink_to(LAUNCH)
  verb = tiny.command('warmstart', tiny_folder, 'slurm', warmstart__steps=2, **ONE_BUCKET)
  done = subprocess.run(
    ['bash', str(LAUNCH / 'slurm.sbatch'), *verb],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  said = done.stdout + done.stderr
  assert done.returncode == 0, said
  assert (tiny_folder / 'slurm' / 'warmstart' / 'policy' / 'params').is_dir()
  assert _count(folder, 'requeue') == 0
  # JAX says so when it leaves a process only one of its node's GPUs, as it would in a SLURM job.
  assert 'Connecting to JAX distributed service' in said and 'visible devices' not in said


def _sbatch(cluster, verb, restarts=0):
  """The script as SLURM would start it on two nodes, with a stand-in for the verb."""
  folder, environment = cluster
  _stand_in(folder, verb)
  (folder / 'launch').symlink_to(LAUNCH)
  job = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': '2', 'SLURM_JOB_NODELIST': 'node[1-2]'}
  job |= {'SLURM_SUBMIT_DIR': str(folder), 'SLURM_RESTART_COUNT': str(restarts)}
  return subprocess.run(
    ['bash', str(LAUNCH / 'slurm.sbatch'), 'train'],
    env={**environment, **job, 'PYTHON': str(folder / 'verb')},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  'verb, restarts, code, requeued',
  [
    ('exit 75', 0, 1, 1),
    ('exit 75', 4, 1, 0),
    ('[ $SLURM_PROCID = 0 ] || kill -KILL $PPID', 0, 1, 1),
    ('exit $((75 - 73 * $SLURM_PROCID))', 0, 2, 0),
    ('exit 0', 0, 0, 0),
  ],
  ids=['a lost host', 'the last of the attempts', 'a lost task', 'something to mend', 'done'],
)
def test_slurm_queues_again_what_may_go_on(cluster, verb, restarts, code, requeued):
  done = _sbatch(cluster, verb, restarts)
  assert done.returncode == code, done.stderr
  assert _count(cluster[0], 'scontrol requeue 7') == requeued


def test_slurm_waits_for_what_a_verb_makes_of_its_notice(cluster):
  verb = '[ $SLURM_PROCID = 0 ] || exit 75; trap "sleep 0.5; exit 0" TERM; sleep 60 & wait'
  assert 'ended with codes 0 75' in _sbatch(cluster, verb).stdout


def test_a_lost_host_starts_the_verb_again_on_the_slice_that_is_there(cluster):
  folder, environment = cluster
  _stand_in(folder, 'mark=$FAKE_HOST/again; [ -e $mark ] || { touch $mark; exit 75; }')
  done = _pod(environment)
  assert done.returncode == 0, done.stdout + done.stderr
  assert _count(folder, STARTS) == 2 and _count(folder, 'tpu-vm create') == 1
  assert 'start 1 of 5 ended with codes 75 75' in done.stdout


def test_what_the_user_must_mend_is_not_started_again(cluster):
  """One host knows what is wrong, the other one only that it is alone."""
  folder, environment = cluster
  _stand_in(folder, 'case $FAKE_HOST in */1) echo "lr is -1"; exit 2 ;; *) exit 75 ;; esac')
  done = _pod(environment)
  assert done.returncode == 2 and 'lr is -1' in done.stdout
  assert _count(folder, STARTS) == 1 and _count(folder, 'delete') == 0


def test_a_connection_that_breaks_is_made_again(cluster):
  folder, environment = cluster
  _stand_in(folder, 'sleep 1; echo done')
  (folder / 'drop').touch()
  done = _pod(environment)
  assert done.returncode == 0 and 'done' in done.stdout and not (folder / 'drop').exists()
  assert _count(folder, STARTS) == 1 and _count(folder, 'detached.sh wait') == 2
  assert 'ended with codes' not in done.stdout


def test_attempts_come_to_an_end(cluster):
  folder, environment = cluster
  _stand_in(folder, 'exit 1')
  done = _pod({**environment, 'ATTEMPTS': '2'})
  assert done.returncode == 1 and _count(folder, STARTS) == 2


def test_a_slice_from_the_queue_is_deleted_when_the_verb_is_done(cluster):
  folder, environment = cluster
  _stand_in(folder, 'exit 0')
  done = _pod({**environment, 'QUEUED': '1', 'DELETE': '1'})
  assert done.returncode == 0, done.stderr
  assert _count(folder, 'queued-resources create') == _count(folder, 'queued-resources delete') == 1
  assert not (folder / 'hosts').exists()


def test_a_slice_that_is_not_there_needs_a_type(cluster):
  _, environment = cluster
  done = _pod({**environment, 'TYPE': ''})
  assert done.returncode == 2 and 'TYPE and VERSION' in done.stderr


def test_a_slice_that_the_user_stopped_is_left_alone(cluster):
  folder, environment = cluster
  (folder / 'tpu-vm').write_text('STOPPED')
  done = _pod(environment)
  assert done.returncode == 2 and 'is stopped' in done.stderr
  assert _count(folder, 'delete') == _count(folder, 'create') == 0


def test_the_verb_outlives_the_terminal(cluster):
  """A second launcher finds it running, and only watches."""
  folder, environment = cluster
  _stand_in(folder, 'echo ready; while ! [ -e $FAKE_CLUSTER/go ]; do sleep 0.1; done')
  first, second = _watched(environment), None
  try:
    _read_until(first, 'ready')
    os.killpg(first.pid, signal.SIGTERM)
    first.wait()
    second = _watched(environment)
    _read_until(second, 'ready')
  finally:
    (folder / 'go').touch()
  assert second.wait() == 0
  assert _count(folder, STARTS) == 1 and _count(folder, 'scp') == 1


def _watched(environment):
  command = [str(LAUNCH / 'tpu_pod.sh'), 'pod', 'zone-a', 'train']
  return subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, start_new_session=True, text=True
  )


def _read_until(process, word):
  assert any(word in line for line in process.stdout), f'it ended without {word!r}'


def _detached(folder, *words):
  return subprocess.run(
    [str(folder / 'launch' / 'detached.sh'), *words],
    env={**os.environ, 'PYTHON': str(folder / 'verb'), 'GRACE': '1'},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  'notice', ['trap "exit 75" TERM', 'trap "" TERM'], ids=['heeds', 'ignores']
)
def test_stop_ends_a_verb_and_all_that_it_started(tmp_path, notice):
  (tmp_path / 'launch').symlink_to(LAUNCH)
  _stand_in(tmp_path, f'{notice}; sleep 300 & echo $! > {tmp_path}/worker; wait; wait')
  assert _detached(tmp_path, 'running').returncode == 1
  assert _detached(tmp_path, 'start', 'train').returncode == 0
  worker = tmp_path / 'worker'
  while not (worker.exists() and worker.read_text()):
    time.sleep(0.05)
  assert _detached(tmp_path, 'running').returncode == 0
  assert _detached(tmp_path, 'stop').returncode == 0
  assert _detached(tmp_path, 'running').returncode == 1
  assert _detached(tmp_path, 'code').stdout.strip() == ('75' if 'exit' in notice else 'none')
  assert not _is_alive(int(worker.read_text()))


def _is_alive(pid, limit_s=5.0):
  """Whether a process still runs after a while; one that nobody waits for does not."""
  until = time.monotonic() + limit_s
  with contextlib.suppress(psutil.NoSuchProcess):
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
      if time.monotonic() > until:
        return True
      time.sleep(0.05)
  return False


def test_gpus_are_named_so_that_none_is_an_error(cluster):
  folder, environment = cluster
  _stand_in(folder, 'echo $JAX_PLATFORMS $CUDA_VISIBLE_DEVICES')
  environment |= {'PYTHON': str(folder / 'verb'), 'GPUS': '1'}
  command = [str(LAUNCH / 'gpus.sh'), 'train']
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0 and done.stdout.endswith('cuda,cpu 1\n'), done.stderr
  (folder / 'bin' / 'nvidia-smi').write_text('#!/bin/sh\nexit 9\n')
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and 'finds no GPU' in done.stderr
