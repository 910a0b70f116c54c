"""An index in a bucket: copied to a host once, and never half."""

import os
import pathlib
import re
import shutil
import subprocess

import fake_cluster
import pytest


@pytest.fixture
def bucket(tmp_path):
  """An index of three files in a bucket."""
  place = tmp_path / 'buckets' / 'mine' / 'wiki'
  place.mkdir(parents=True)
  for name in 'abc':
    (place / name).write_text(name)
  return tmp_path


def _stage(folder, place='gs://mine/wiki'):
  done = fake_cluster.launch(folder, ('stage.sh', place), {'STAGE_DIR': f'{folder}/staged'})
  return done.returncode, pathlib.Path(done.stdout.strip()), done.stderr


def test_an_index_in_a_bucket_is_copied_once(bucket):
  code, folder, said = _stage(bucket)
  assert code == 0, said
  assert sorted(path.name for path in folder.iterdir()) == ['a', 'b', 'c']
  assert _stage(bucket, 'gs://mine/wiki/')[1] == folder
  assert len(fake_cluster.calls(bucket)) == 1
  assert re.fullmatch('wiki-[0-9a-f]{12}', folder.name)


def test_the_verb_is_given_the_copy(bucket):
  verb = bucket / 'verb'
  verb.write_text('#!/bin/sh\necho "$@"\n')
  verb.chmod(0o755)
  variables = {'STAGE_DIR': f'{bucket}/staged', 'PYTHON': str(verb)}
  words = ('host.sh', 'eval', '--index=gs://mine/wiki', '--policy=gs://mine/policy')
  done = fake_cluster.launch(bucket, words, variables)
  folder = _stage(bucket)[1]
  assert done.stdout == f'-m jaxsearch eval --index={folder} --policy=gs://mine/policy\n'


def test_processes_that_start_together_copy_once(bucket):
  environment = {**fake_cluster.install(bucket), 'STAGE_DIR': f'{bucket}/staged'}
  command = ['bash', str(fake_cluster.LAUNCH / 'stage.sh'), 'gs://mine/wiki']
  running = [
    subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
  ]
  (folder,) = {process.communicate()[0] for process in running}
  assert len(os.listdir(folder.strip())) == 3 and len(fake_cluster.calls(bucket)) == 1


def test_a_copy_that_broke_off_is_never_used(bucket):
  (bucket / 'cut').touch()
  code, folder, _ = _stage(bucket)
  assert code == 1 and folder == pathlib.Path() and len(os.listdir(bucket / 'staged')) == 2
  code, folder, said = _stage(bucket)
  assert code == 0 and len(os.listdir(folder)) == 3, said


def test_an_empty_place_is_refused(bucket):
  code, _, said = _stage(bucket, 'gs://mine/wikki')
  assert code == 2 and 'gs://mine/wikki holds nothing' in said


def test_a_host_without_the_tool_says_so(bucket):
  for name in ('bash', 'dirname', 'id', 'sha256sum'):
    (bucket / name).symlink_to(shutil.which(name))
  done = fake_cluster.launch(bucket, ('stage.sh', 's3://mine/wiki'), {'PATH': str(bucket)})
  assert done.returncode == 2 and 'takes aws on this host' in done.stderr


def test_a_path_is_used_as_it_is(bucket):
  assert _stage(bucket, '/bucket/wiki')[:2] == (0, pathlib.Path('/bucket/wiki'))
  assert not fake_cluster.calls(bucket)
