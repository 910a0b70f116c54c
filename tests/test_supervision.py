"""Hosts that are lost, freeze or are told to stop; coordinators that nobody answers; versions."""

import re
import signal
import time

import psutil
import pytest
import tiny

from jaxsearch import metrics
from jaxsearch.cli import _processes, _versions
from jaxsearch.types import UserError

LONG = {'schedule__steps': 500, 'schedule__eval_every': 500, 'schedule__checkpoint_every': 1}


@pytest.fixture(autouse=True)
def _end_all():
  """A test that fails leaves no process either."""
  yield
  for process in psutil.Process().children(recursive=True):
    process.kill()


def _start(folder, run, **options):
  """Two processes of one run, and the files of what they print."""
  logs = [folder / f'{run}{host}.log' for host in range(2)]
  return tiny.start_together(tiny.command('train', folder, run, **options), logs), logs


def _await_steps(run_dir, count, process):
  """Until so many steps were recorded."""
  while len(metrics.read(run_dir)) < count:
    assert process.poll() is None, 'it ended too early'
    time.sleep(0.01)


def _paragraph(log):
  """The last line of a log: what the user is told at the end."""
  return log.read_text().strip().splitlines()[-1]


def _last_step(run_dir):
  return max(int(path.name) for path in (run_dir / 'checkpoints').iterdir() if path.name.isdigit())


def _assert_ends(process, log, run_dir, *words, limit_s=60.0):
  """It ends in time with code 75, says why and from where it goes on, and leaves no process."""
  family = psutil.Process(process.pid).children(recursive=True)
  assert len(family) >= 3, 'a child and its two retrievers were expected'
  assert process.wait(limit_s) == 75, log.read_text()
  told = _paragraph(log)
  assert told.startswith('jaxsearch train: ') and all(word in told for word in words), told
  assert f'{run_dir} is step {_last_step(run_dir)}; the same command' in told
  left = psutil.wait_procs(family, timeout=1)[1]
  assert all(one.status() == psutil.STATUS_ZOMBIE for one in left), 'its retrievers still run'


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1])
def test_a_lost_host_ends_the_other(tiny_folder, lost):
  """Host 0 is killed, as the machine would be; host 1 freezes."""
  run_dir = tiny_folder / f'lost{lost}'
  processes, logs = _start(tiny_folder, run_dir.name, **LONG)
  _await_steps(run_dir, 3, processes[0])
  (child,) = psutil.Process(processes[lost].pid).children()
  if lost == 0:
    tiny.kill(processes[0])
  else:
    child.suspend()
  survivor = 1 - lost
  _assert_ends(processes[survivor], logs[survivor], run_dir, f'host {lost} was lost')
  if lost == 1:
    child.kill()
    assert processes[1].wait(60) == 137 and 'was ended by SIGKILL' in _paragraph(logs[1])


def test_an_update_that_hangs_is_ended(tiny_folder):
  run_dir, log = tiny_folder / 'hung', tiny_folder / 'hung.log'
  command = tiny.command('train', tiny_folder, 'hung', **LONG, schedule__update_limit_s=0.001)
  (process,) = tiny.start_together(command, [log])
  assert process.wait(120) == 75
  assert [line['step'] for line in metrics.read(run_dir)] == [0]  # The first update has no limit.
  assert 'an update took longer than schedule.update_limit_s=0.001 seconds' in _paragraph(log)


def test_a_single_process_that_is_told_to_stop_saves(tiny_folder):
  run_dir, log = tiny_folder / 'single', tiny_folder / 'single.log'
  options = {**LONG, 'schedule__checkpoint_every': 500}
  process = tiny.start(tiny.command('train', tiny_folder, 'single', **options), log)
  _await_steps(run_dir, 2, process)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.1)
  process.send_signal(signal.SIGTERM)  # Some managers send it more than once.
  assert process.wait(60) == 75, log.read_text()
  step = _last_step(run_dir)
  assert step >= 2 and f'step {step} is saved in {run_dir}' in _paragraph(log)


def _alone(number, address):
  """Variables of one of two processes, which does not wait long."""
  return {
    'JAXSEARCH_COORDINATOR': address,
    'JAXSEARCH_NUM_PROCESSES': '2',
    'JAXSEARCH_PROCESS_ID': str(number),
    'JAXSEARCH_JOIN_SECONDS': '1',
  }


def test_a_coordinator_that_nobody_answers_for(tiny_folder):
  """One paragraph and code 2."""
  address = f'localhost:{tiny.free_port()}'
  command = tiny.command('train', tiny_folder, 'alone')
  code, output = tiny.finish(command, tiny_folder / 'alone.log', **_alone(1, address))
  assert code == 2 and output.count('\n') == 1 and not (tiny_folder / 'alone').exists()
  told = f'jaxsearch train: process 1 cannot reach JAXSEARCH_COORDINATOR={address!r}: '
  assert output.startswith(told)


@pytest.mark.parametrize(
  ('number', 'address', 'words'),
  [
    (1, 'nowhere.invalid:9', 'process 1 cannot reach .*nowhere.invalid'),
    (1, 'localhost', 'it names no port'),
    (1, 'localhost:port', 'it names no port'),
    (2, 'localhost:9', "JAXSEARCH_PROCESS_ID is '2'; allowed: a whole number, from 0 to 1."),
    ('', 'localhost:9', "JAXSEARCH_PROCESS_ID is ''; allowed: a whole number, from 0 to 1."),
  ],
)
def test_variables_that_cannot_be(monkeypatch, number, address, words):
  for name, value in _alone(number, address).items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=words):
    _processes.join()


def test_others_that_do_not_come(tiny_folder):
  log = tiny_folder / 'first.log'
  command = tiny.command('train', tiny_folder, 'alone')
  code, output = tiny.finish(command, log, **_alone(0, f'localhost:{tiny.free_port()}'))
  assert code == 2 and 'did not all come together in 1 seconds' in _paragraph(log)


def test_the_versions_here_are_tested_ones(capsys):
  _versions.warn_if_untested()
  assert capsys.readouterr().err == ''
  setup = (tiny.ROOT / 'setup.py').read_text()
  first, last = re.search(r"'jax>=(\d+\.\d+)\.\d+,<(\d+\.\d+)'", setup).groups()
  minors = sorted({jax for jax, _ in _versions.TESTED})
  assert first == minors[0] and last == f'0.{int(minors[-1].split(".")[1]) + 1}'
