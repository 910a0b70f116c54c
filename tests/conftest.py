"""What several test files share."""

import pytest
import tiny


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory):
  """The files of `tiny`, with the policy that a warm start makes of them."""
  folder = tmp_path_factory.mktemp('tiny')
  tiny.write(folder)
  code, output = tiny.finish(tiny.command('warmstart', folder, 'start'), folder / 'start.log')
  assert code == 0, output
  return folder
