"""The index folder and its draft."""

import os

import pytest

from jaxsearch.retrieval import index_folder
from jaxsearch.types import UserError


def test_a_draft_outlives_an_error_and_takes_its_place_at_the_end(tmp_path):
  out = tmp_path / 'deep' / 'index'
  for found in ([], ['a']):
    with pytest.raises(RuntimeError), index_folder.drafting(out, {'n': 1}) as folder:
      assert sorted(p.name for p in folder.iterdir()) == found
      (folder / 'a').touch()
      (folder.parent / 'scratch').touch()
      raise RuntimeError
  assert not out.exists()
  with index_folder.drafting(out, {'n': 2}) as folder:
    assert not list(folder.iterdir()) and not (folder.parent / 'scratch').exists()
    first = index_folder.write_info(folder, {'documents': 1})
  with index_folder.drafting(out, {'n': 1}) as folder:
    second = index_folder.write_info(folder, {'documents': 2})
    assert index_folder.read_info(out) == first
  assert index_folder.read_info(out) == second and first['build'] != second['build']
  assert list(out.parent.iterdir()) == [out]


def test_two_builds_of_one_index_are_refused(tmp_path):
  out = tmp_path / 'index'
  with index_folder.drafting(out, {}) as folder:
    holder = f'is being built by process {os.getpid()} on'
    with pytest.raises(UserError, match=holder), index_folder.drafting(out, {}):
      pass
    index_folder.write_info(folder, {})
  with index_folder.drafting(out, {}) as folder:
    assert not list(folder.iterdir())


def test_what_is_not_an_index_is_neither_read_nor_replaced(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(UserError, match='not replaced'), index_folder.drafting(tmp_path, {}):
    pass
  for folder in ('', tmp_path, tmp_path / 'missing'):
    with pytest.raises(UserError, match='jaxsearch index'):
      index_folder.read_info(folder)
  (tmp_path / 'index.json').write_text('{"format": 1}')
  with pytest.raises(UserError, match='format 2: its format is 1'):
    index_folder.read_info(tmp_path)


def test_a_part_that_is_not_there_is_told_with_what_is(tmp_path):
  index_folder.write_info(tmp_path, {'bm25': {'k1': 1.5}})
  info, part = index_folder.read_part(tmp_path, 'bm25')
  assert part == {'k1': 1.5} == info['bm25']
  with pytest.raises(UserError, match='has bm25, not dense.*--encoder'):
    index_folder.read_part(tmp_path, 'dense')
