"""Every attention back-end against the plain one: numbers, gradients, and what must stay unseen."""

import functools
import importlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from jaxsearch import config, plugins, sharding
from jaxsearch.models import decoder
from jaxsearch.models.attentions import cudnn as chooser
from jaxsearch.rollout.caches import cudnn, dense, ragged

# Of outputs around 1; sums in another order, and one rounding of the result (bfloat16: 2**-8).
TOLERANCE = {'float32': 3e-6, 'bfloat16': 0.02}
HUGE = 1e30


@pytest.fixture(scope='module', autouse=True)
def interpreted():
  with pytest.MonkeyPatch.context() as patch:
    yield kernels.interpret(patch)


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _garbage(seed, shape, size=HUGE):
  return (size * np.sign(_normal(seed, *shape))).astype(np.float32)


def _exact(q_BTQH, k_BTKH, v_BTKH):
  """Attention as its definition has it, in float64; [B,T,Q,H]."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_BTQH, k_BTKH, v_BTKH))
  k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  logits = np.einsum('btqh,bsqh->bqts', q, k) / np.sqrt(q.shape[-1])
  logits = np.where(np.tri(q.shape[1], dtype=bool), logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bqts,bsqh->btqh', weights, v)


# --- Training -------------------------------------------------------------------------------------

NAMES = plugins.names('models.attentions')
B, T, Q, K, H = 2, 150, 6, 2, 16  # 150: splash pads it to two blocks.


@functools.cache
def _attention(name):
  mesh = sharding.make_mesh(config.Mesh())
  return plugins.load('models.attentions', name).make(mesh)


@functools.cache
def _with_gradients(name):
  def loss(q, k, v, w):
    o_BTQH = _attention(name)(q, k, v)
    # Where the weight is 0 there is no loss, whatever the output.
    return jnp.where(w == 0, 0, o_BTQH.astype(jnp.float32) * w).sum(), o_BTQH

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def _arrays(dtype='float32'):
  shapes = [(B, T, Q, H), (B, T, K, H), (B, T, K, H)]
  return [jnp.asarray(_normal(i, *shape), dtype) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('name', NAMES)
def test_training_attention_is_exact_attention(name, dtype):
  """And its gradients are those of the plain one in float32."""
  arrays, w = _arrays(dtype), _normal(9, B, T, Q, H)
  (_, o_BTQH), grads = _with_gradients(name)(*arrays, w)
  assert o_BTQH.dtype == dtype
  np.testing.assert_allclose(np.asarray(o_BTQH, np.float32), _exact(*arrays), atol=TOLERANCE[dtype])
  _, expected = _with_gradients('xla')(*(x.astype(jnp.float32) for x in arrays), w)
  for found, right in zip(grads, expected):
    scale = np.abs(right).max()
    np.testing.assert_allclose(
      np.asarray(found, np.float32) / scale, right / scale, atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize('name', NAMES)
def test_training_attention_sees_no_later_time_and_no_other_row(name):
  """Neither it nor its gradient changes by one bit."""
  until, w = 70, _normal(9, B, T, Q, H)
  w[0, until:] = w[1] = 0
  clean = _arrays()
  # Whose products float32 still holds: later queries meet later keys.
  dirty = [x.at[0, until:].set(_garbage(5, x[0, until:].shape, 1e15)) for x in clean]
  dirty = [x.at[1].set(_garbage(6, x[1].shape, 1e15)) for x in dirty]
  (_, o_clean), clean_grads = _with_gradients(name)(*clean, w)
  (_, o_dirty), dirty_grads = _with_gradients(name)(*dirty, w)
  for a, b in zip((o_clean, *clean_grads), (o_dirty, *dirty_grads)):
    np.testing.assert_array_equal(a[0, :until], b[0, :until])
  assert np.abs(o_clean[0, until:] - o_dirty[0, until:]).max() > 1


@pytest.mark.parametrize(
  'name', [n for n in NAMES if plugins.load('models.attentions', n).SEGMENTS]
)
def test_training_attention_keeps_segments_apart(name):
  """Each is as it is alone, and what another holds changes no bit, of gradients neither."""
  cut, w = 64, _normal(9, B, T, Q, H)
  segments = np.broadcast_to(np.where(np.arange(T) < cut, 0, 1), (B, T)).astype(np.int32)
  attend, w_first = _attention(name), np.where(np.arange(T)[:, None, None] < cut, 0, w)

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
  def run(q, k, v):
    o_BTQH = attend(q, k, v, segments)
    return jnp.where(w_first == 0, 0, o_BTQH * w_first).sum(), o_BTQH

  clean = _arrays()
  dirty = [x.at[:, :cut].set(_garbage(5, x[:, :cut].shape, 1e15)) for x in clean]
  (_, o_clean), clean_grads = run(*clean)
  (_, o_dirty), dirty_grads = run(*dirty)
  for a, b in zip((o_clean, *clean_grads), (o_dirty, *dirty_grads)):
    np.testing.assert_array_equal(a[:, cut:], b[:, cut:])
  alone = _exact(*(x[:, cut:] for x in clean))
  np.testing.assert_allclose(o_clean[:, cut:], alone, atol=TOLERANCE['float32'])


# --- Caches ---------------------------------------------------------------------------------------

S, C, PAGE, PAGES = 4, 8, 4, 8
SIZE = decoder.Size(vocab=8, layers=1, embed=8, heads=Q, kv_heads=K, head_size=H, hidden=8)
LANES = S  # The slot of a lane without work.
# What is done to the cache, in this order: (slot, start, count) of lanes, or which rows decode.
STEPS = (
  [(2, 0, 5), (LANES, 0, 0), (0, 0, 7)],
  [(1, 0, 6), (1, 6, 5), (3, 0, 1)],  # A later lane continues an earlier one.
  [(LANES, 0, 0), (2, 5, 6), (0, 7, 8)],  # Over the borders of pages, and to the end of one.
  [True, True, True, False],
  [True, False, True, False],
  [(2, 9, 4), (3, 1, 8), (LANES, 0, 0)],  # Slot 2 was rewound.
  [False, False, True, True],
)


def _cudnn_on_a_gpu(q, k, v, *, mask=None, key_value_seq_lengths=None, implementation):
  """What cuDNN makes of the arguments: a mask is added to the logits, and hides only so much."""
  del implementation
  B, T, N, H = q.shape
  k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
  logits = jnp.einsum('btnh,bsnh->bnts', q, k, preferred_element_type=jnp.float32) * H**-0.5
  if mask is not None:
    logits += jnp.where(mask, 0.0, -(2.0**41))
  inside = jnp.arange(k.shape[1]) < key_value_seq_lengths[:, None, None, None]
  weights = jax.nn.softmax(jnp.where(inside, logits, -jnp.inf), axis=-1)
  return jnp.einsum('bnts,bsnh->btnh', weights.astype(q.dtype), v)


@pytest.fixture(params=['dense', 'cudnn', 'cudnn on a GPU', 'ragged'])
def caches(request, monkeypatch):
  if request.param == 'cudnn on a GPU':
    monkeypatch.setattr(jax.nn, 'dot_product_attention', _cudnn_on_a_gpu)
  files = {'dense': dense, 'ragged': ragged}
  return files.get(request.param, cudnn)


def _empty(caches, dtype):
  if caches is not ragged:
    return caches.init(SIZE, config.Rollout(slots=S), 1, PAGE * PAGES, dtype)
  return ragged.Cache((jnp.zeros((1 + S * PAGES, PAGE, 2 * K, 128), dtype),))


# Pages of each slot; whoever has no slot, the last row, has nobody's.
TABLE = np.zeros((S + 1, PAGES), np.int32)
TABLE[:S] = 1 + np.random.default_rng(0).permutation(S * PAGES).reshape(S, PAGES)


def _where(caches, slots):
  """What a program is told of these slots' places."""
  return jnp.asarray(TABLE[np.minimum(slots, S)] if caches is ragged else slots, jnp.int32)


# Traced anew for another `dot_product_attention`, which is why it is an argument.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(caches, function, cache, qkv, where_S, length_S, active_S):
  del function
  layers = caches.Layers(cache)
  return layers.decode(where_S, length_S, active_S)(0)(*qkv), layers.cache


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extend(caches, function, cache, qkv, where_R, start_R, count_R):
  del function
  layers = caches.Layers(cache)
  return layers.extend(where_R, start_R, count_R)(0)(*qkv), layers.cache


def _run(caches, dtype, spoil=lambda cache, kept: cache, one_row=None):
  """Outputs of every step: {(step, slot, position): [Q,H]}.

  `spoil` is given the cache before each step, and how much of each slot its rows may see; with
  `one_row` only that slot's, and only its outputs come back.
  """
  cache, length, found = _empty(caches, dtype), np.zeros(S, np.int32), {}
  how = caches, jax.nn.dot_product_attention
  for number, step in enumerate(STEPS):
    rows, many = (S, 1) if isinstance(step[0], bool) else (len(step), C)
    shapes = [(rows, many, heads, H) for heads in (Q, K, K)]
    qkv = [jnp.asarray(_normal((number, i), *shape), dtype) for i, shape in enumerate(shapes)]
    if many == 1:
      slots, starts, counts = np.arange(S), length.copy(), np.array(step, int)
    else:
      slots, starts, counts = np.array(step).T
      real = slots < S
      np.minimum.at(length, slots[real], starts[real])  # Rewinds.
    kept = length if one_row is None else np.where(np.arange(S) == one_row, length, 0)
    decodes = many == 1
    program = functools.partial(_decode if decodes else _extend, *how)
    told = (starts, np.array(step)) if decodes else (starts, counts)
    args = (_where(caches, slots), *map(jnp.asarray, told))
    out, _ = program(spoil(cache, kept), qkv, *args)
    _, cache = program(cache, qkv, *args)
    out = np.asarray(out, np.float32)
    for lane, (slot, start, count) in enumerate(zip(slots, starts, counts)):
      if slot < S and one_row in (None, slot):
        found |= {(number, slot, start + i): out[lane, i] for i in range(count)}
    for slot, start, count in zip(slots, starts, counts):
      if slot < S and count:
        length[slot] = start + count
  return found


@functools.cache
def _expected(dtype):
  """The same from the definition, of the tokens that each row then holds."""
  tokens = [[] for _ in range(S)]
  found = {}
  for number, step in enumerate(STEPS):
    decodes = isinstance(step[0], bool)
    lanes = [(s, len(tokens[s]), int(on)) for s, on in enumerate(step)] if decodes else step
    shapes = [(len(lanes), 1 if decodes else C, heads, H) for heads in (Q, K, K)]
    qkv = [
      np.asarray(jnp.asarray(_normal((number, i), *shape), dtype), np.float32)
      for i, shape in enumerate(shapes)
    ]
    for lane, (slot, start, count) in enumerate(lanes):
      if slot < S and count:
        tokens[slot] = tokens[slot][:start] + [[x[lane, i] for x in qkv] for i in range(count)]
        out = _exact(*(np.stack(x)[None] for x in zip(*tokens[slot])))[0]
        found |= {(number, slot, start + i): out[start + i] for i in range(count)}
  return found


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_cached_attention_is_exact_attention(caches, dtype):
  """Chunks at any offset, several of one row, steps of decode, rewound rows; idle ones between."""
  found, expected = _run(caches, dtype), _expected(dtype)
  assert found.keys() == expected.keys() and len(found) == 57
  for key, right in expected.items():
    np.testing.assert_allclose(found[key], right, atol=TOLERANCE[dtype], err_msg=str(key))


def _spoil(caches, cache, kept):
  """Everything that is not among the first `kept` tokens of a slot is huge."""

  def spoil(array, seen):
    seen = seen.reshape(*seen.shape, *[1] * (array.ndim - seen.ndim))
    return jnp.where(seen, array, jnp.asarray(_garbage(7, array.shape), array.dtype))

  if caches is ragged:
    times = [(slot, t) for slot in range(S) for t in range(kept[slot])]
    seen = np.zeros((1 + S * PAGES, PAGE), bool)
    for slot, t in times:
      seen[TABLE[slot, t // PAGE], t % PAGE] = True
    return cache._replace(pages=tuple(spoil(a, seen) for a in cache.pages))
  seen = np.arange(cache.values[0].shape[2 if caches is dense else 1]) < kept[:, None]
  if caches is cudnn:
    return jax.tree.map(lambda a: spoil(a, seen), cache)
  return dense.Cache(
    tuple(spoil(a, seen[:, None, None]) for a in cache.keys),
    tuple(spoil(a, seen[:, None]) for a in cache.values),
  )


@pytest.mark.parametrize('one_row', [None, 2])
def test_cached_attention_sees_nothing_that_is_not_its_rows(caches, one_row):
  """Not one bit changes with what lies behind a row, in other rows, and in nobody's page."""
  clean = _run(caches, 'float32', one_row=one_row)
  dirty = _run(caches, 'float32', functools.partial(_spoil, caches), one_row)
  assert clean.keys() == dirty.keys() and clean
  for key, right in clean.items():
    np.testing.assert_array_equal(dirty[key], right, err_msg=str(key))


def _written(array):
  """(first axis, second axis) of what is not 7 any more."""
  return np.argwhere((array != 7).any(axis=(2, 3))).tolist()


@pytest.mark.parametrize('caches', [cudnn, ragged])
def test_only_tokens_of_a_chunk_are_written(caches, monkeypatch):
  """Not those behind its count, nor any of a lane without work."""
  monkeypatch.setattr(ragged.kernel, 'ragged_paged_attention', lambda q, *_, **__: q)
  empty = _empty(caches, 'float32')
  full = jax.tree.map(lambda a: a + 7 * (a.ndim == 4), empty)
  qkv = [jnp.asarray(_normal(i, 3, C, n, H)) for i, n in enumerate((Q, K, K))]
  lanes = [np.array(x, np.int32) for x in zip((2, 3, 5), (LANES, 0, 0), (0, 0, 0))]
  lanes[0] = _where(caches, lanes[0])
  _, after = _extend(caches, 'writes', full, qkv, *lanes)
  if caches is cudnn:
    for array in (*after.keys, *after.values):
      assert _written(array) == [[2, t] for t in range(3, 8)]
    return
  expected = sorted([TABLE[2, t // PAGE], t % PAGE] for t in range(3, 8))
  assert _written(after.pages[0]) == expected
  # A row that does not decode may have no page where its next token would be.
  qkv = [x[jnp.arange(S) % 3, :1] for x in qkv]
  where = _where(caches, np.arange(S))
  _, after = _decode(caches, 'writes', full, qkv, where, jnp.arange(S), jnp.arange(S) == 1)
  assert _written(after.pages[0]) == [[TABLE[1, 0], 1]]


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
  """A GPU to trace for: the calls of `dot_product_attention`, none of which is compiled."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  try:
    fused = importlib.import_module('jax._src.cudnn.fused_attention_stablehlo')
  except ImportError:
    pytest.skip('this JAX keeps its cuDNN calls elsewhere')
  # Without a GPU nothing detects cuDNN; the calls are the same whatever its version.
  monkeypatch.setattr(fused, 'check_cudnn_version', lambda: 91000)
  jax.clear_caches()
  yield
  jax.clear_caches()


def _cuda(function, *args):
  """The cuDNN calls of a program for GPUs, with their masks."""
  text = jax.jit(function).trace(*args).lower(lowering_platforms=('cuda',)).as_text()
  return re.findall(r'__cudnn\$(\w+)', text), re.findall(r'mask_type\W+22: \W+22(\w+)', text)


def _half(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def test_a_gpu_runs_cudnn(gpu):
  q, k = _half(B, T, Q, H), _half(B, T, K, H)
  attend = chooser.make(sharding.make_mesh(config.Mesh()))
  loss = lambda q, k, v: attend(q, k, v).astype(jnp.float32).sum()
  calls, masks = _cuda(jax.grad(loss, argnums=(0, 1, 2)), q, k, k)
  assert calls == ['fmhaSoftmax', 'fmhaSoftmaxBackward'] and set(masks) == {'CAUSAL'}
  cache = jax.eval_shape(lambda: _empty(cudnn, jnp.bfloat16))
  int_S = jax.ShapeDtypeStruct((S,), jnp.int32)
  qkv = [_half(S, 1, n, H) for n in (Q, K, K)]
  found = _cuda(functools.partial(_decode, cudnn, 'gpu'), cache, qkv, int_S, int_S, int_S)
  assert found == (['fmhaSoftmax'], ['PADDING'])
  qkv = [_half(S, C, n, H) for n in (Q, K, K)]
  found = _cuda(functools.partial(_extend, cudnn, 'gpu'), cache, qkv, int_S, int_S, int_S)
  assert found == (['fmhaScaleBiasSoftmax'], ['PADDING'])


def test_cudnn_is_for_gpus_and_short_floats():
  assert chooser.implementation(jnp.dtype('bfloat16')) == 'xla'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'default_backend', lambda: 'gpu')
    chosen = {name: chooser.implementation(jnp.dtype(name)) for name in TOLERANCE}
  assert chosen == {'float32': 'xla', 'bfloat16': 'cudnn'}


# --- Several devices, and TPUs --------------------------------------------------------------------


def _worker(name, *args, **environment):
  worker = pathlib.Path(__file__).with_name(name)
  return subprocess.run(
    [sys.executable, str(worker), *args],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_heads_and_rows_on_four_devices(tmp_path):
  """Pretend ones, in a process of their own: see backends_worker.py."""
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=4'
  done = _worker('backends_worker.py', str(tmp_path), XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines()[-1] == 'back-ends agree'


@pytest.mark.slow
@pytest.mark.parametrize('slice_', ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'])
def test_programs_compile_for_tpus(slice_):
  """Engine and learner for a real slice, by the compiler that TPUs use: see tpu_worker.py."""
  pytest.importorskip('libtpu', reason='pip install -e ".[tpu]" brings the compiler')
  done = _worker('tpu_worker.py', slice_, TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1')
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines()[-1] == 'compiled'
