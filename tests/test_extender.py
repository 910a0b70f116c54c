"""Feeding rows: what each slot's cache holds when its row runs, on an engine of paper."""

import numpy as np
import pytest

from jaxsearch import config
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.memory import Memory
from jaxsearch.rollout.row import Row
from jaxsearch.types import Question, Task

KEY = np.zeros(2, np.uint32)


class Paper:
  """Writes ids where the engine writes keys and values; lanes of a program go one by one."""

  replicas, slots, lanes, fewest_lanes, chunk, forces = 1, 4, 2, 2, 3, 0

  def __init__(self):
    self.memory = Memory(config.Rollout(slots=self.slots), 1, 32, paged=False)
    self.cache = [np.full(32, -1) for _ in range(self.slots)]

  def replica(self, slot):
    return 0

  def extend(self, lanes):
    assert len(lanes) <= self.lanes
    for lane in lanes:
      self.cache[lane.slot][lane.start : lane.start + len(lane.tokens)] = lane.tokens

  def fork(self, lanes):
    assert len(lanes) <= self.lanes
    for lane in lanes:
      self.cache[lane.slot] = self.cache[lane.source].copy()


def _nobody_goes(row, needed):
  raise AssertionError('without pages there is always room')


def _row(slot, prompt, sample=0):
  task = Task(Question('q', '?', ('a',)), 0, sample, 0)
  return Row((task,), 0, slot, np.array(prompt, np.int32))


@pytest.fixture
def engine():
  return Paper()


@pytest.fixture
def extender(engine):
  return Extender(engine)


def _begin(extender, *rows):
  for row in rows:
    extender.begin(row, 5, KEY, 1.0)


def _holds(engine, extender, row):
  prompt = row.segments[0].ids
  return extender.is_ready(row) and list(engine.cache[row.slot][: len(prompt) - 1]) == list(
    prompt[:-1]
  )


def test_a_group_shares_one_prompt(engine, extender):
  rows = [_row(slot, [1, 2, 3, 4, 5, 6]) for slot in range(4)]
  _begin(extender, *rows)
  assert not any(map(extender.is_ready, rows))
  extender.flush(0, _nobody_goes)
  assert all(_holds(engine, extender, row) for row in rows)


def test_one_row_takes_all_lanes_of_a_program(engine, extender):
  """Ten ids in chunks of three are four lanes, two programs of two, whoever else waits."""
  first, second = _row(0, range(11)), _row(1, [7, 8, 9])
  _begin(extender, first, second)
  extender._extend_once(_nobody_goes)
  assert list(engine.cache[0][:7]) == [0, 1, 2, 3, 4, 5, -1]
  extender._extend_once(_nobody_goes)
  assert _holds(engine, extender, first) and not extender.is_ready(second)


def test_a_source_is_read_before_its_slot_gets_another_row(engine, extender):
  first = [_row(slot, [1, 2, 3, 4, 5]) for slot in range(3)] + [_row(3, [7, 7, 8, 8])]
  _begin(extender, *first)
  extender.flush(0, _nobody_goes)
  # All rows are done. Slot 1 forks from slot 0, whose next row has another prompt; slot 0 forks
  # from slot 3, which is overwritten too.
  second = [_row(1, [1, 2, 3, 4, 5]), _row(0, [7, 7, 8, 8]), _row(3, [9, 9, 9])]
  _begin(extender, *second)
  extender.flush(0, _nobody_goes)
  assert all(_holds(engine, extender, row) for row in second)


def test_a_source_that_is_being_extended_is_copied_all_the_same(engine, extender):
  searching = _row(0, [1, 2, 3, 4])
  _begin(extender, searching)
  extender.flush(0, _nobody_goes)
  extender.extend(searching, 3, np.array([4, 6, 6, 6, 6, 6, 6, 6]), 5, KEY, 1.0)
  late = _row(2, [1, 2, 3, 4])
  _begin(extender, late)
  extender.flush(4, _nobody_goes)  # The extension waits for company, the copy does not.
  assert _holds(engine, extender, late) and not extender.is_ready(searching)
  extender.flush(0, _nobody_goes)
  assert list(engine.cache[0][:11]) == [1, 2, 3, 4, 6, 6, 6, 6, 6, 6, 6]


def test_nobody_waits_long_for_company(engine, extender):
  """With most rows running, three chunks; then the program runs with idle lanes."""
  row = _row(0, [1, 2, 3])
  for _ in range(2):
    _begin(extender, row)
    for _ in range(3):
      extender.flush(4, _nobody_goes)
      assert not extender.is_ready(row)
    extender.flush(4, _nobody_goes)
    assert _holds(engine, extender, row)


def test_nothing_is_shared_after_the_weights_change(engine, extender):
  _begin(extender, _row(0, [1, 2, 3]))
  extender.flush(0, _nobody_goes)
  extender.forget()
  engine.cache[0][:] = -1
  late = _row(1, [1, 2, 3])
  _begin(extender, late)
  extender.flush(0, _nobody_goes)
  assert _holds(engine, extender, late)


def test_a_row_that_is_rebuilt_goes_on_in_the_middle_of_its_turn(engine, extender):
  """Half a tag has been sampled: the stop automaton does not start afresh."""
  row = _row(0, [1, 2, 3])
  row.sampled(np.array([7, 8], np.int32), np.zeros(2, np.float32), automaton=3)
  lanes = []
  engine.extend = lanes.extend
  extender.rebuild(row, 5, KEY, 1.0)
  extender.flush(0, _nobody_goes)
  assert [lane.left for lane in lanes] == [0, 5] and lanes[-1].automaton == 3
  row.close_segment()
  assert row.automaton == 0


def test_a_slot_that_gave_up_its_cache_is_no_source(engine, extender):
  _begin(extender, _row(0, [1, 2, 3, 4]))
  extender.flush(0, _nobody_goes)
  extender.withdraw(0)
  engine.cache[0][:] = -1
  late = _row(1, [1, 2, 3, 4])
  _begin(extender, late)
  extender.flush(0, _nobody_goes)
  assert _holds(engine, extender, late)
