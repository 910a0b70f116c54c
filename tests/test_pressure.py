"""Too few pages: whoever is given up comes back, and everybody comes to an end and reads its own.

The sampler and everything of the host under it are real; the engine is one of paper, which keeps
ids where keys and values are, page by page, and samples a function of all ids that it finds there.
"""

import types
import zlib

import numpy as np
import pytest

from jaxsearch import config
from jaxsearch.bench import replay
from jaxsearch.bench.traces import Script, Turn
from jaxsearch.rollout.engine import Chunk
from jaxsearch.rollout.extender import Extender
from jaxsearch.rollout.memory import Memory
from jaxsearch.rollout.programs import Decoded
from jaxsearch.rollout.sampler import Sampler
from jaxsearch.types import Kind, UserError

VOCAB = 50
STEPS = 20000  # Of a sampler, after which it is stuck.


class Paper:
  """The engine's half, on ids."""

  def __init__(self, rollout, replicas):
    self.replicas, self.slots = replicas, rollout.slots * replicas
    self.chunk, self.lanes = rollout.extend_tokens, rollout.extend_rows
    self.fewest_lanes, self.steps = rollout.extend_rows, rollout.decode_steps
    self.memory = Memory(
      rollout, replicas, rollout.context_tokens + rollout.extend_tokens, paged=True
    )
    self.forces = 1 if rollout.deterministic else 0
    self.pages = {}  # (replica, page) -> ids.
    self.tokens = rollout.block_tokens
    self.rows = [types.SimpleNamespace(length=0, left=0) for _ in range(self.slots)]
    self.local = rollout.slots

  def replica(self, slot):
    return slot // self.local

  def extend(self, lanes):
    by_slot = {}
    for lane in lanes:
      by_slot.setdefault(lane.slot, []).append(lane)
    for slot, some in by_slot.items():
      self._copy(slot, self.memory.write(slot, some[0].start, some[-1].stop, some[-1].left))
      for lane in some:
        for place, token in enumerate(lane.tokens, lane.start):
          self._put(slot, place, token)
        self._set(lane)

  def fork(self, lanes):
    for lane in lanes:
      self.memory.share(lane.source, lane.slot, lane.start, lane.left)
      self._set(lane)

  def release(self, slots):
    for slot in slots:
      self.memory.release(slot)
      self.rows[slot].left = 0

  def decode(self, *, steps, stops):
    slots = self.memory.active
    for slot, *copy in self.memory.decode(slots):
      self._copy(slot, [copy])
    tokens = np.zeros((self.slots, self.steps), np.int32)
    counts = np.zeros(self.slots, np.int32)
    for slot, row in enumerate(self.rows):
      for step in range(min(row.left, steps, self.steps)):
        self._put(slot, row.length, row.pending)
        row.length += 1
        seen = [self._page(slot, t)[t % self.tokens] for t in range(row.length)]
        drawn = zlib.crc32(np.array(seen, np.int32).tobytes()) % VOCAB
        row.pending, row.forced = (row.forced[0], row.forced[1:]) if row.forced else (drawn, [])
        tokens[slot, step], counts[slot] = row.pending, step + 1
        row.left -= 1
    active = np.array([row.left > 0 for row in self.rows])
    out = Decoded(tokens, tokens.astype(np.float32), counts, np.zeros(self.slots, int), active)
    return Chunk(slots, list(slots), out)

  def read(self, chunk):
    out = chunk.out
    self.memory.read(chunk.slots, out.count[chunk.slots], out.active[chunk.slots])
    return out

  def _set(self, lane):
    forced = [int(i) for i in lane.forced]
    state = {'length': lane.stop, 'left': lane.left, 'pending': lane.pending, 'forced': forced}
    self.rows[lane.slot] = types.SimpleNamespace(**state)

  def _page(self, slot, place):
    page = self.memory.places([slot])[0, place // self.tokens]
    assert page, "nobody's page"
    return self.pages.setdefault((self.replica(slot), page), [-1] * self.tokens)

  def _put(self, slot, place, token):
    self._page(slot, place)[place % self.tokens] = int(token)

  def _copy(self, slot, copies):
    for source, target in copies:
      replica = self.replica(slot)
      self.pages[replica, target] = list(self.pages[replica, source])


def _case(seed):
  """(scripts, rollout, replicas) with few pages, rows of every length, prompts in groups."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  scripts = []
  group = draw(1, 4)
  for question in range(draw(2, 6)):
    prompt = draw(2, 30)
    for _ in range(group):
      turns = [Turn(draw(1, 12), draw(1, 12), draw(0, 2) * 1e-4) for _ in range(draw(0, 3))]
      scripts.append(Script(question, prompt, (*turns, Turn(draw(1, 12)))))
  chunk = draw(2, 6)
  rollout = config.Rollout(
    slots=draw(2, 5),
    context_tokens=max(script.length for script in scripts) + 1,
    decode_steps=draw(1, 14),
    extend_rows=draw(1, 3),
    extend_tokens=chunk,
    block_tokens=draw(chunk, 12),
    deterministic=bool(draw(0, 1)),
    overlap=bool(draw(0, 1)),
  )
  least = 1 - (rollout.context_tokens + chunk) // -rollout.block_tokens
  rollout.pages = least + draw(0, 6)
  return scripts, rollout, draw(1, 2)


def _roll(scripts, rollout, replicas):
  """(ids of every trajectory, evictions) of two rollouts, one after the other."""
  engine = Paper(rollout, replicas)
  sampler = Sampler(engine, Extender(engine), replay.Replay(scripts, VOCAB), rollout)
  step, steps = sampler.step, [0]

  def counted():
    steps[0] += 1
    assert steps[0] < STEPS, 'rows wait for each other'
    step()

  sampler.step = counted
  done = []
  for _ in range(2):
    pool = replay.Delays(scripts)
    done += sampler.rollout(replay.tasks(scripts), pool=pool, top_k=1, temperature=1.0)
    assert not engine.memory._flying.any()
  policy = sum(t.contexts[0].count(Kind.POLICY) for t in done)
  assert policy == 2 * sum(script.policy for script in scripts)
  return [t.contexts[0].ids.tolist() for t in done], sampler.measure()['perf/evictions']


@pytest.mark.parametrize('first', range(0, 100, 20))
def test_everybody_comes_to_an_end_and_reads_what_it_wrote(first):
  evictions = 0
  for seed in range(first, first + 20):
    scripts, rollout, replicas = _case(seed)
    found, evicted = _roll(scripts, rollout, replicas)
    evictions += evicted
    rollout.pages = 0
    expected, evicted = _roll(scripts, rollout, replicas)
    assert found == expected, seed
    assert not evicted, 'without a bound nobody has to go'
  assert evictions > 20


def test_without_a_bound_nobody_has_to_go():
  """A group in one page a row: all share it, each is about to need a copy, and there are enough."""
  scripts = [Script(0, 5, (Turn(3, 4, 0.0), Turn(9)))] * 4
  rollout = config.Rollout(
    slots=4, context_tokens=30, decode_steps=8, extend_rows=2, extend_tokens=4, block_tokens=34
  )
  _, evicted = _roll(scripts, rollout, 1)
  assert not evicted


def test_too_few_pages_for_one_row_are_refused():
  with pytest.raises(UserError, match='rollout.pages is 7, .* Allowed: 0, or at least 8'):
    Memory(config.Rollout(pages=7, block_tokens=16), 1, 112, paged=True)
