"""The kernels for CPUs: exact, each row by itself, compiled where they run."""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import config, kernels
from jaxsearch.models import decoder, packed
from jaxsearch.rollout.caches import native
from jaxsearch.types import UserError

# Of outputs around 1, and of sums of D products of such numbers.
TOLERANCE = 3e-6


@pytest.fixture(scope='module', autouse=True)
def compiled():
  kernels.require()


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Products -------------------------------------------------------------------------------------

# Less than a panel, a panel, some and a part of one.
COLUMNS = (5, 48, 250)


@functools.partial(jax.jit, static_argnums=2)
def _products(x_MD, matrices, columns):
  return kernels.products(x_MD, [packed.panels(w) for w in matrices], columns)


@pytest.mark.parametrize('M', [1, 3, 4, 8, 13, 40])
@pytest.mark.parametrize('D', [1, 37, 400])  # 400: more than what stays in the first cache.
def test_products_are_products(M, D):
  x_MD, matrices = _normal(0, M, D), [_normal(n, D, n) for n in COLUMNS]
  for w, found in zip(matrices, _products(x_MD, matrices, COLUMNS), strict=True):
    exact = x_MD.astype(np.float64) @ w
    np.testing.assert_allclose(found, exact, atol=TOLERANCE * D**0.5)


def test_a_row_of_a_product_does_not_depend_on_the_others():
  """To the bit, whatever tile it falls into."""
  x_MD, matrices = _normal(0, 40, 400), [_normal(n, 400, n) for n in COLUMNS]
  whole = _products(x_MD, matrices, COLUMNS)
  for first, last in ((0, 1), (3, 7), (5, 18), (39, 40)):
    for a, b in zip(whole, _products(x_MD[first:last], matrices, COLUMNS)):
      np.testing.assert_array_equal(a[first:last], b)


# --- Attention ------------------------------------------------------------------------------------

SLOTS, ROOM = 3, 192  # Tokens of a row.
PAGE_SIZES = (64, 192)  # One block of the kernel, and three.
# (slot, start, count) of each lane: a first chunk, a later lane that continues an earlier one, a
# lane without work, over the border of a page, a step of decode, a row that is set back, one that
# is full.
STEPS = (
  [(0, 0, 40), (0, 40, 30), (2, 0, 1)],
  [(1, 0, 7), (2, 0, 0), (0, 70, 40)],
  [(0, 110, 1), (1, 7, 1), (2, 1, 1)],
  [(0, 60, 40), (2, 2, 40), (1, 8, 40)],
  [(0, 100, 60), (1, 48, 17), (2, 42, 0)],
  [(0, 160, 32), (1, 65, 1)],
)
# Query heads, key heads, head size.
HEADS = [(1, 1, 8), (8, 2, 80), (6, 2, 32), (3, 1, 128), (4, 2, 22)]


@functools.partial(jax.jit, donate_argnums=(3, 4))
def _attend(q, k, v, keys, values, pages, start, count):
  told = {'pages_RN': pages, 'start_R': start, 'count_R': count}
  return kernels.attend(q * q.shape[-1] ** -0.5, k, v, keys, values, **told)


def _table(page):
  """Pages of each slot, in no order; page 0 is nobody's."""
  pages = 1 + np.random.default_rng(0).permutation(SLOTS * (ROOM // page))
  return pages.reshape(SLOTS, -1).astype(np.int32)


def _cache(K, H, page):
  size = decoder.Size(8, layers=1, embed=8, heads=K, kv_heads=K, head_size=H, hidden=8)
  rollout = config.Rollout(slots=SLOTS, block_tokens=page)
  made = native.init(size, rollout, 1, ROOM, jnp.float32)
  return made.keys[0], made.values[0]


def _chunk(number, lanes, Q, K, H):
  C = max(count for *_, count in lanes)
  return [_normal((number, i), len(lanes), C, heads, H) for i, heads in enumerate((Q, K, K))]


def _steps(Q, K, H, page=64, spoil=lambda keys, values, kept: (keys, values), only=None):
  """Outputs {(step, slot, position): [Q,H]}; `only`: of that slot, the others do nothing."""
  (keys, values), table = _cache(K, H, page), _table(page)
  kept, found = np.zeros(SLOTS, int), {}
  for number, lanes in enumerate(STEPS):
    slots, start, count = np.array(lanes, np.int32).T
    count = np.where((slots == only) | (only is None), count, 0).astype(np.int32)
    np.minimum.at(kept, slots, np.where(count, start, kept[slots]))
    keys, values = spoil(keys, values, kept)
    chunk = _chunk(number, lanes, Q, K, H)
    out, keys, values = _attend(*chunk, keys, values, table[slots], start, count)
    for lane, (slot, first, many) in enumerate(zip(slots, start, count)):
      kept[slot] = first + many if many else kept[slot]
      found |= {(number, slot, first + i): np.asarray(out[lane, i]) for i in range(many)}
      assert not np.any(out[lane, many:])
  return found


def _exact(Q, K, H):
  """The same from the definition, in float64, of the tokens that each row then holds."""
  rows, found = [[] for _ in range(SLOTS)], {}
  for number, lanes in enumerate(STEPS):
    q_RCQH, k_RCKH, v_RCKH = _chunk(number, lanes, Q, K, H)
    for lane, (slot, start, count) in enumerate(lanes):
      rows[slot] = rows[slot][: start if count else None]
      rows[slot] += [(k_RCKH[lane, i], v_RCKH[lane, i]) for i in range(count)]
    for lane, (slot, start, count) in enumerate(lanes):
      for i in range(count):
        k_TKH, v_TKH = (
          np.stack(x).astype(np.float64) for x in zip(*rows[slot][: start + i + 1], strict=True)
        )
        k_TQH, v_TQH = (np.repeat(x, Q // K, axis=1) for x in (k_TKH, v_TKH))
        logits = np.einsum('qh,tqh->qt', q_RCQH[lane, i], k_TQH) / H**0.5
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found[number, slot, start + i] = np.einsum('qt,tqh->qh', weights, v_TQH)
  return found


@pytest.mark.parametrize('page', PAGE_SIZES)
@pytest.mark.parametrize('Q, K, H', HEADS)
def test_cached_attention_is_exact_attention(Q, K, H, page):
  found, expected = _steps(Q, K, H, page), _exact(Q, K, H)
  assert found.keys() == expected.keys() and len(found) > 250
  for key, right in expected.items():
    np.testing.assert_allclose(found[key], right, atol=TOLERANCE, err_msg=str(key))


@pytest.mark.parametrize('page', PAGE_SIZES)
def test_a_row_sees_nothing_but_its_own_tokens(page):
  """Not one bit changes, whatever lies behind its length, in nobody's page and in other rows'."""

  def spoil(keys, values, kept):
    seen = np.zeros((len(keys), page), bool)
    for slot in range(SLOTS):
      for token in range(kept[slot]):
        seen[_table(page)[slot, token // page], token % page] = True
    seen_lanes = seen.reshape(len(seen), 1, page // kernels.LANE, 1, kernels.LANE)
    huge = lambda array: 1e30 * np.sign(_normal(7, *array.shape))
    keys = jnp.where(seen_lanes, keys, huge(keys))
    return keys, jnp.where(seen[:, None, :, None], values, huge(values))

  clean, dirty = _steps(8, 2, 80, page), _steps(8, 2, 80, page, spoil)
  for key, right in clean.items():
    np.testing.assert_array_equal(dirty[key], right, err_msg=str(key))


@pytest.mark.parametrize('slot', range(SLOTS))
def test_a_row_does_not_depend_on_its_company(slot):
  together, alone = _steps(8, 2, 80), _steps(8, 2, 80, only=slot)
  assert alone.keys() == {key for key in together if key[1] == slot}
  for key, right in alone.items():
    np.testing.assert_array_equal(together[key], right, err_msg=str(key))


def test_a_row_without_room_is_not_written_elsewhere():
  keys, values = _cache(1, 16, 64)
  told = jnp.zeros((1, 8, 1, 16)), keys, values, np.zeros((1, 3), np.int32)
  q, keys, values, pages = told
  with pytest.raises(jax.errors.JaxRuntimeError, match='no room for its tokens'):
    start, count = np.array([ROOM - 4], np.int32), np.array([8], np.int32)
    jax.block_until_ready(_attend(q, q, q, keys, values, pages, start, count))


# --- Compiling ------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path


def _made(folder):
  return sorted(path.name for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize(
  'compiler, says', [('no-such-compiler', 'there is no C.. compiler'), ('false', 'do not compile')]
)
def test_a_missing_compiler_is_told(monkeypatch, elsewhere, compiler, says):
  monkeypatch.setenv('CXX', compiler)
  with pytest.raises(UserError, match=says) as error:
    kernels._library()
  assert 'CXX' in str(error.value) and "rollout.cache='blocked'" in str(error.value)
  assert not _made(elsewhere)


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, elsewhere):
  (elsewhere / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(elsewhere / 'file'))
  with pytest.raises(UserError, match='cannot be written to .*XDG_CACHE_HOME'):
    kernels._library()


def test_it_is_compiled_once_for_each_compiler(monkeypatch, elsewhere):
  """Two threads at the same time make one file, as two processes do; another CXX another one."""
  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    made, same = threads.map(lambda _: kernels._library(), range(2))
  before = made.stat()
  assert kernels._library() == made == same and made.stat().st_mtime_ns == before.st_mtime_ns
  assert _made(elsewhere) == [made.name]
  monkeypatch.setenv('CXX', 'c++ -DANOTHER')
  assert kernels._library() != made and len(_made(elsewhere)) == 2
