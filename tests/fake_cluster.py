"""A machine room in folders of this machine: `gcloud`, `srun` and their like for tests.

  FAKE_CLUSTER=folder python fake_cluster.py gcloud compute tpus tpu-vm list …

A slice is two folders, its hosts; what is to run there runs, in two processes at once. Everything
that was asked is written to folder/calls.txt. Tests tell it by files what is to go wrong:

  folder/preempt   path, with wildcards, of a file; once it is there the slice is pre-empted, once
  folder/drop      the next connection that waits for a verb breaks
  folder/verb      a program that stands for the verb on the hosts of a slice
  folder/cut       the next copy from a bucket breaks off after one file
"""

import contextlib
import glob
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil

LAUNCH = pathlib.Path(__file__).parents[1] / 'launch'
FOLDER = pathlib.Path(os.environ.get('FAKE_CLUSTER', ''))
HOSTS = 2
# A host has Python and all packages, but for ours; its JAX has no TPU.
HOST_PYTHON = f"""#!/bin/sh
[ "$1 $2" = "-m pip" ] && exit
[ -x "$FAKE_CLUSTER/verb" ] && exec "$FAKE_CLUSTER/verb"
JAX_PLATFORMS=cpu exec {sys.executable} "$@"
"""


def install(folder):
  """The environment in which the commands of this module are found; they work in `folder`."""
  for name in ('gcloud', 'srun', 'scontrol', 'nvidia-smi'):
    path = folder / 'bin' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
    path.chmod(0o755)
  return {
    **os.environ,
    'FAKE_CLUSTER': str(folder),
    'PATH': f'{folder}/bin:{os.environ["PATH"]}',
    'TMPDIR': str(folder),
    'POLL': '0.1',
  }


def launch(folder, words, variables=None, dry_run=False):
  """Runs a script of launch/ with these variables, in a cluster that lies in `folder`."""
  script, *rest = words
  flags = ['--dry_run'] if dry_run else []
  return subprocess.run(
    ['bash', str(LAUNCH / script), *flags, *rest],
    env={**install(folder), 'PYTHON': sys.executable, **(variables or {})},
    capture_output=True,
    text=True,
    check=False,
  )


def calls(folder):
  """What was asked of the commands, one line each."""
  path = folder / 'calls.txt'
  return path.read_text().splitlines() if path.exists() else []


def gcloud(arguments):
  """Slices, places in the queue, and copies from buckets."""
  flags = dict(word.removeprefix('--').partition('=')[::2] for word in arguments)
  if arguments[:2] == ['storage', 'rsync']:
    return _copy(*arguments[2:4])
  kind, verb, rest = arguments[2], arguments[3], arguments[4:]
  if verb == 'list':
    if (FOLDER / kind).exists():
      print((FOLDER / kind).read_text())
  elif verb == 'create':
    _create(kind)
  elif verb == 'delete':
    shutil.rmtree(FOLDER / 'hosts', ignore_errors=True)
    (FOLDER / kind).unlink()
  elif verb == 'describe':
    print(HOSTS)
  elif not (FOLDER / 'hosts').exists():
    return 1
  elif verb == 'scp':
    for host in (FOLDER / 'hosts').iterdir():
      shutil.copy(rest[0], host / rest[1].partition(':')[2])
  elif verb == 'ssh':
    return _on_all(flags['command'])
  return 0


def srun(arguments):
  """A process per node; the first failure ends all, and the highest exit code is the answer."""
  words = list(arguments)
  while words[0].startswith('--'):
    words.pop(0)
  nodes = int(os.environ['SLURM_JOB_NUM_NODES'])
  start = lambda i: subprocess.Popen(words, env=_in_slurm(i, nodes, 0), start_new_session=True)
  running, is_told = [start(i) for i in range(nodes)], False
  while None in (codes := [process.poll() for process in running]):
    if any(codes) and not is_told:
      is_told = True
      for process in running:
        with contextlib.suppress(ProcessLookupError):
          os.killpg(process.pid, signal.SIGTERM)  # Every process of a task, as SLURM does.
    time.sleep(0.1)
  return max(code if code >= 0 else 128 - code for code in codes)


def scontrol(arguments):
  """Every node is this machine."""
  if arguments[:2] == ['show', 'hostnames']:
    print('localhost\n' * int(os.environ['SLURM_JOB_NUM_NODES']), end='')
  return 0


def nvidia_smi(arguments):
  """Two GPUs."""
  print('GPU 0\nGPU 1')
  return 0


def _create(kind):
  for host in range(HOSTS):
    python = FOLDER / 'hosts' / str(host) / 'jaxsearch' / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(HOST_PYTHON)
    python.chmod(0o755)
  with socket.socket() as free:
    free.bind(('', 0))
    (FOLDER / 'port').write_text(str(free.getsockname()[1]))
  (FOLDER / kind).write_text('READY' if kind == 'tpu-vm' else 'ACTIVE')


def _in_slurm(process, processes, local):
  """The variables by which JAX knows the processes of a SLURM job."""
  job = {'SLURM_JOB_ID': os.environ.get('SLURM_JOB_ID', '1'), 'SLURM_STEP_NODELIST': 'localhost'}
  numbers = {'SLURM_PROCID': process, 'SLURM_NTASKS': processes, 'SLURM_LOCALID': local}
  return {**os.environ, **job, **{name: str(number) for name, number in numbers.items()}}


def _on_all(command):
  """The first exit code that is not 0, hosts in order, or 255 if the connection broke."""
  running = []
  for host in range(HOSTS):
    folder = str(FOLDER / 'hosts' / str(host))
    # How hosts of a slice know each other is theirs: here as those of a SLURM job do.
    port = (FOLDER / 'port').read_text()
    environment = {
      **_in_slurm(host, HOSTS, host),
      'FAKE_HOST': folder,
      'JAX_COORDINATOR_PORT': port,
    }
    running.append(subprocess.Popen(['bash', '-c', command], cwd=folder, env=environment))
  is_waiting = 'detached.sh wait' in command
  if (FOLDER / 'drop').exists() and is_waiting:
    (FOLDER / 'drop').unlink()
    for process in running:
      process.kill()
  if (FOLDER / 'preempt').exists() and is_waiting:
    while not glob.glob((FOLDER / 'preempt').read_text()):
      time.sleep(0.05)
    _preempt()
  codes = [process.wait() for process in running]
  return next((255 if code < 0 else code for code in codes if code), 0)


def _preempt():
  (FOLDER / 'preempt').unlink()
  (FOLDER / 'tpu-vm').write_text('PREEMPTED')
  killed = []
  for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error):
      if process.environ().get('FAKE_HOST', '').startswith(f'{FOLDER}/'):
        process.kill()
        killed.append(process)
  psutil.wait_procs(killed)
  shutil.rmtree(FOLDER / 'hosts')


def _copy(source, to):
  files = sorted((FOLDER / 'buckets' / source.partition('://')[2]).glob('*'))
  cut = FOLDER / 'cut'
  for path in files[: 1 if cut.exists() else None]:
    shutil.copy(path, to)
  if cut.exists():
    cut.unlink()
    return 1
  return 0


if __name__ == '__main__':
  name, *rest = sys.argv[1:]
  with open(FOLDER / 'calls.txt', 'a') as out:
    out.write(f'{name} {shlex.join(rest)}\n')
  commands = {'gcloud': gcloud, 'srun': srun, 'scontrol': scontrol, 'nvidia-smi': nvidia_smi}
  sys.exit(commands[name](rest))
