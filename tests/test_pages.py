"""Pages: every slot reads what it wrote, shared or not; rows that give theirs up lose nothing."""

import jax
import numpy as np
import policies
import pytest

from jaxsearch import config
from jaxsearch.retrieval.pool import Pool
from jaxsearch.rollout.caches import _entries
from jaxsearch.rollout.pages import Pages

TOKENS, ROW = 4, 6  # Of a page; pages of a row.


class Paper:
  """Numbers where the engine has keys and values."""

  def __init__(self, pages, slots, replicas):
    self.pages = Pages(slots, replicas, pages=pages, tokens=TOKENS, row_pages=ROW)
    self.content = np.full((replicas, pages, TOKENS), -1)
    self.slots = slots

  def write(self, slot, start, values):
    replica = slot // self.slots
    for source, target in self.pages.write(slot, start, start + len(values)):
      self.content[replica, target] = self.content[replica, source]
    for place, value in enumerate(values, start):
      page = self.pages.table[slot, place // TOKENS]
      assert page, "the page that is nobody's"
      self.content[replica, page, place % TOKENS] = value

  def read(self, slot, count):
    pages = self.pages.table[slot][: -(-count // TOKENS)]
    return self.content[slot // self.slots][pages].reshape(-1)[:count].tolist()


@pytest.mark.parametrize('seed', range(8))
def test_every_slot_reads_what_it_wrote(seed):
  """Random writes, rewinds, forks and releases, never more than fits; nothing leaks."""
  rng = np.random.default_rng(seed)
  slots, replicas, pages = 5, 2, 14
  paper = Paper(pages, slots, replicas)
  wrote = [[] for _ in range(slots * replicas)]
  for _ in range(400):
    slot = int(rng.integers(slots * replicas))
    replica = slot // slots
    match rng.integers(4):
      case 0 | 1:
        start = int(rng.integers(len(wrote[slot]) + 1))
        values = rng.integers(1000, size=rng.integers(TOKENS * ROW - start + 1)).tolist()
        if paper.pages.missing(slot, start, start + len(values)) <= paper.pages.free(replica):
          paper.write(slot, start, values)
          wrote[slot] = wrote[slot][:start] + values
      case 2:
        source = replica * slots + int(rng.integers(slots))
        kept = int(rng.integers(len(wrote[source]) + 1))
        if source != slot:
          paper.pages.share(source, slot, kept)
          wrote[slot] = wrote[source][:kept]
      case 3:
        paper.pages.release(slot)
        wrote[slot] = []
    assert [paper.read(s, len(wrote[s])) for s in range(len(wrote))] == wrote
    for s in range(len(wrote)):
      assert paper.pages.holds(s) == bool(wrote[s])
  for slot in range(slots * replicas):
    paper.pages.release(slot)
  assert [paper.pages.free(r) for r in range(replicas)] == [pages - 1] * replicas


def test_a_fork_takes_no_page_until_somebody_writes():
  """The first to write into a shared page gets a copy, the last one keeps the page."""
  paper = Paper(10, 3, 1)
  paper.write(0, 0, [1, 2, 3, 4, 5, 6])
  assert paper.pages.free(0) == 7
  for slot in (1, 2):
    paper.pages.share(0, slot, 6)
  assert paper.pages.free(0) == 7
  assert [paper.pages.missing(slot, 6, 7) for slot in range(3)] == [1, 1, 1]
  for slot in range(3):
    paper.write(slot, 6, [10 + slot])
  assert paper.pages.free(0) == 5  # The full page is still one, the other one is three.
  assert [paper.read(slot, 7) for slot in range(3)] == [
    [1, 2, 3, 4, 5, 6, 10 + slot] for slot in range(3)
  ]


# --- Rows that give up their pages ----------------------------------------------------------------

PAGED = {'cache': 'paged', 'block_tokens': 16}
# A full row takes 7 pages of 16 tokens, and 7 more are behind it for what rewards may force.
FEW = {**PAGED, 'pages': 26}


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  return policies.random_policy(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
  index = policies.build_index(tmp_path_factory.mktemp('index'))
  with Pool(config.Retrieval(index=str(index))) as pool:
    yield pool


@pytest.fixture(scope='module')
def tasks():
  return policies.make_tasks(['amber?', 'where is birch', 'so', 'kelp'], samples=4)


def _roll(policy, tasks, pool, folder, **rollout):
  actor = policies.make_actor(policy, folder, **rollout)
  done = actor.rollout(tasks, pool=pool, top_k=1, temperature=1.0)
  return done, actor.measure()['perf/evictions']


@pytest.fixture(scope='module')
def plenty(policy, tasks, pool, tmp_path_factory):
  done, evicted = _roll(policy, tasks, pool, tmp_path_factory.mktemp('plenty'), **PAGED)
  assert not evicted and any(t.contexts[0].turns for t in done)
  return done


def test_pages_are_blocks_to_the_bit(policy, tasks, pool, tmp_path, plenty):
  done, _ = _roll(policy, tasks, pool, tmp_path, cache='blocked', block_tokens=16)
  assert policies.bits(done) == policies.bits(plenty)


@pytest.mark.parametrize('options', [{}, {'overlap': True}, {'decode_steps': 3}], ids=str)
def test_a_row_that_gave_up_its_pages_goes_on_to_the_bit(
  policy, tasks, pool, tmp_path, plenty, options
):
  done, evicted = _roll(policy, tasks, pool, tmp_path, **FEW, **options)
  assert evicted > 3
  assert policies.bits(done) == policies.bits(plenty)


def test_pages_of_a_kernel_are_given_up_to_the_bit(policy, tasks, pool, tmp_path, plenty):
  """The cache `native`; its numbers are those of the others but for the last bits."""
  native = {'cache': 'native', 'block_tokens': 64}
  kept, _ = _roll(policy, tasks, pool, tmp_path, **native)
  done, evicted = _roll(policy, tasks, pool, tmp_path, **native, pages=8)
  assert evicted > 3
  assert policies.bits(done) == policies.bits(kept)
  for a, b in zip(plenty, done, strict=True):
    (a,), (b,) = a.contexts, b.contexts
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)


def test_a_fast_rebuild_stays_within_tolerance(policy, tasks, pool, tmp_path, plenty):
  done, evicted = _roll(policy, tasks, pool, tmp_path, **FEW, deterministic=False)
  assert evicted > 3
  for a, b in zip(plenty, done, strict=True):
    (a,), (b,) = a.contexts, b.contexts
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)


# --- Entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype, gap', [('float32', 0.0), ('bfloat16', 2**-8), ('int8', 0.5 / 127)])
def test_entries_are_kept_within_half_a_step(dtype, gap):
  x = np.random.default_rng(0).normal(size=(3, 2, 5, 8)).astype(np.float32)
  x[0, 0, 0] = 0.0
  kept = _entries.pack(x, np.dtype(dtype), axis=3)
  error = np.abs(_entries.unpack(kept, np.float32) - x)
  assert (error <= gap * np.abs(x).max(axis=3, keepdims=True)).all()
  assert sum(a.nbytes for a in jax.tree.leaves(kept)) <= x.nbytes * {0.0: 1, 2**-8: 0.5}.get(
    gap, 0.4
  )


@pytest.mark.parametrize('cache', ['blocked', 'paged'])
@pytest.mark.parametrize('dtype, gap', [('bfloat16', 0.02), ('int8', 0.03)])
def test_smaller_entries_move_log_probs_little(
  policy, tasks, pool, tmp_path, plenty, cache, dtype, gap
):
  """Of the ids that both sampled before the first difference; a difference is rare."""
  options = {'cache': cache, 'block_tokens': 16, 'cache_dtype': dtype}
  done, _ = _roll(policy, tasks, pool, tmp_path, **options)
  compared = 0
  for a, b in zip(plenty, done, strict=True):
    (a,), (b,) = a.contexts, b.contexts
    count = min(len(a.ids), len(b.ids))
    same = int(np.argmax(np.append(a.ids[:count] != b.ids[:count], True)))
    compared += same
    np.testing.assert_allclose(a.logprobs[:same], b.logprobs[:same], atol=gap)
  assert compared > 0.4 * sum(len(t.contexts[0].ids) for t in plenty)
