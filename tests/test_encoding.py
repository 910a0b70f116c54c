"""Text encoders and cross-encoders: the reference's numbers, whatever the company of a text."""

import hashlib
import json
import shutil
import subprocess
import sys

import encoders
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny as tiny_lib

from jaxsearch.encoding import batches, cross_encoder, text_encoder, weights
from jaxsearch.encoding.folder import Folder
from jaxsearch.models import bert
from jaxsearch.types import UserError

# Of numbers around 1, in float32, summed in another order.
TOLERANCE = 1e-5
SHA256 = '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'
TEXTS = ['', 'amber', 'what lies near the dune', 'near ' * 10, 'kelp near the islet ' * 25]


@pytest.fixture(scope='module', params=encoders.KINDS)
def model(request, tmp_path_factory):
  """(folder, torch, their model) of each kind."""
  folder = tmp_path_factory.mktemp(request.param)
  return folder, *encoders.write(folder, request.param)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A BERT and its tokenizer, without files of sentence-transformers."""
  folder = tmp_path_factory.mktemp('tiny')
  encoders.write(folder)
  return folder


@pytest.fixture
def copied(tiny, tmp_path):
  """A copy of `tiny` to change."""
  return shutil.copytree(tiny, tmp_path / 'encoder')


def _assert_close(found, expected):
  expected = np.asarray(expected)
  assert expected.std() > 0.05
  np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


def _theirs(torch, reference, kind, texts, most=80):
  """Last hidden states of each text by itself, without padding."""
  tokenizer = encoders.tokenizer(kind)
  tokenizer.no_padding()
  tokenizer.enable_truncation(most)
  with torch.no_grad():
    return [
      reference(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].numpy()
      for text in texts
    ]


# --- The same function as theirs ------------------------------------------------------------------


def test_each_part_is_that_of_the_reference_library(model):
  """Embeddings, one layer, all layers; rows of different lengths, behind which is anything."""
  folder, torch, theirs = model
  size = Folder(folder).size
  params = weights.read(folder, size)
  rng = np.random.default_rng(0)
  lengths = np.array([70, 1, 33])
  tokens = rng.integers(4, size.vocab, (3, 70)).astype(np.int32)
  mask = np.arange(70) < lengths[:, None]
  types = rng.integers(0, size.types, tokens.shape).astype(np.int32)
  told = [
    torch.tensor(x, dtype=torch.long)
    for x in (np.where(mask, tokens, max(0, size.first_position - 1)), mask, types)
  ]
  with torch.no_grad():
    out = theirs(told[0], told[1], token_type_ids=told[2], output_hidden_states=True)
  embedded, first, *_, last = (x.numpy()[mask] for x in out.hidden_states)
  run = jax.jit(bert.hidden, static_argnums=1)
  for layers, expected in ((0, embedded), (1, first), (size.layers, last)):
    held = {**params, 'layers': params['layers'][:layers]}
    _assert_close(np.asarray(run(held, size, tokens, lengths, types))[mask], expected)


def test_a_mean_of_the_tokens_is_the_vector(model):
  folder, torch, theirs = model
  kind = type(theirs).__name__.removesuffix('Model')
  states = _theirs(torch, theirs, kind, TEXTS, most=80 if kind == 'Bert' else 78)
  means = np.array([x.mean(0) for x in states])
  found = text_encoder.open(str(folder)).encode(TEXTS, 'query')
  _assert_close(found, means / np.linalg.norm(means, axis=1, keepdims=True))


@pytest.mark.parametrize('pooling', ['mean', 'cls'])
@pytest.mark.parametrize('normalize', [True, False])
def test_pooling_and_length_are_those_of_the_folder(tmp_path, pooling, normalize):
  torch, theirs = encoders.write(tmp_path)
  prompts = {'query': 'what lies near ', 'document': 'dune '}
  encoders.sentences(tmp_path, pooling, normalize, prompts, max_seq_length=24)
  made = text_encoder.open(str(tmp_path))
  for kind, prefix in (('query', 'what lies near '), ('passage', 'dune ')):
    states = _theirs(torch, theirs, 'Bert', [prefix + text for text in TEXTS], most=24)
    expected = np.array([x.mean(0) if pooling == 'mean' else x[0] for x in states])
    if normalize:
      expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    _assert_close(made.encode(TEXTS, kind), expected)
  assert made.dimensions == 48
  told = {'pooling': pooling, 'normalize': normalize, 'max_tokens': 24, 'lower': False}
  told |= {'query_prefix': 'what lies near ', 'passage_prefix': 'dune '}
  assert told.items() <= made.identity.items()
  json.dumps(made.identity)


@pytest.mark.parametrize('kind', encoders.KINDS)
def test_scores_of_pairs_are_those_of_the_reference_library(tmp_path, kind):
  torch, theirs = encoders.write(tmp_path, kind, 'ForSequenceClassification')
  tokenizer = encoders.tokenizer(kind)
  tokenizer.no_padding()
  tokenizer.enable_truncation(80 if kind == 'Bert' else 78, strategy='longest_first')
  expected = []
  for text in TEXTS:
    pair = tokenizer.encode('what lies near', text)
    told = {'token_type_ids': torch.tensor([pair.type_ids])} if kind == 'Bert' else {}
    with torch.no_grad():
      expected.append(theirs(torch.tensor([pair.ids]), **told).logits.item())
  found = cross_encoder.open(str(tmp_path)).scores('what lies near', TEXTS)
  assert found.dtype == np.float32
  _assert_close(found, np.array(expected))


def test_the_real_minilm_gives_the_published_similarities():
  """Of the sentences in the quick start of sentence-transformers."""
  folder = encoders.minilm()
  assert hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest() == SHA256
  made = text_encoder.open(str(folder))
  sentences = [
    'The weather is lovely today.',
    "It's so sunny outside!",
    'He drove to the stadium.',
  ]
  vectors = made.encode(sentences, 'query')
  similar = (vectors @ vectors.T)[np.triu_indices(3, 1)]
  np.testing.assert_allclose(similar, [0.6660, 0.1046, 0.1411], atol=5e-5)
  assert made.identity['max_tokens'] == 256


# --- Company --------------------------------------------------------------------------------------


def test_every_text_is_in_one_batch_that_is_at_least_half_full():
  lengths = np.random.default_rng(0).integers(1, 600, 500).tolist() + [16, 17, 512, 513]
  found = []
  for places, rows, time in batches.plan(lengths, 1000, 512):
    assert rows / 2 <= len(places) <= rows
    assert rows * time <= max(512, time) and all(lengths[place] <= time for place in places)
    found += places
  assert sorted(found) == list(range(len(lengths)))
  plans = [batches.plan([30] * n, 80, 512) for n in range(1, 400)]
  shapes = {(rows, time) for plan in plans for _, rows, time in plan}
  assert shapes == {(1, 32), (8, 32), (16, 32)}
  assert [time for *_, time in batches.plan([79, 3], 80, 512)] == [16, 80]


def test_a_vector_does_not_depend_on_the_other_texts(tiny):
  """Alone, among others of all lengths, in another order: the same to the last bits."""
  made = text_encoder.open(str(tiny))
  rng = np.random.default_rng(0)
  texts = [' '.join(rng.choice(encoders.WORDS, n)) for n in rng.integers(0, 30, 60)]
  whole = made.encode(texts, 'query')
  assert len({v.tobytes() for v in whole}) > 50
  order = rng.permutation(len(texts))
  shuffled = made.encode([texts[i] for i in order], 'query')
  np.testing.assert_allclose(shuffled, whole[order], atol=1e-6)
  for place in (0, 17, 59):
    np.testing.assert_allclose(made.encode([texts[place]], 'query')[0], whole[place], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_real_minilm_gives_the_same_bits_in_any_company(dtype):
  made = text_encoder.open(str(encoders.minilm()), dtype)
  rng = np.random.default_rng(0)
  texts = [' '.join(rng.choice(encoders.WORDS, n)) for n in rng.integers(0, 26, 48)]
  whole = made.encode(texts, 'query')
  for count in (1, 13):
    parts = [made.encode(texts[i : i + count], 'query') for i in range(0, 48, count)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_nothing_is_compiled_after_the_warm_up(tiny, caplog):
  made = text_encoder.open(str(tiny))
  made.warm_up(32)
  with jax.log_compiles():
    for count in (1, 3, 7, 20, 40):
      made.encode(['near ' * n for n in range(count)][:30], 'query')
    assert 'Compiling' not in caplog.text
    made.encode(['near ' * 40], 'query')
  assert 'Compiling' in caplog.text


def test_no_text_is_no_vector(tiny):
  assert text_encoder.open(str(tiny)).encode([], 'query').shape == (0, 48)
  with pytest.raises(ValueError, match="'question'"):
    text_encoder.open(str(tiny)).encode(['amber'], 'question')


def test_half_a_letter_is_a_question_mark(tiny):
  made = text_encoder.open(str(tiny))
  found = made.encode(['dune \ud83d near', 'dune ? near', 'dunes \u00e9 near'], 'query')
  np.testing.assert_array_equal(found[0], found[1])
  assert np.isfinite(found).all() and (found[0] != found[2]).any()


def test_lower_precision_stays_close(tiny):
  whole = text_encoder.open(str(tiny)).encode(TEXTS, 'query')
  lower = text_encoder.open(str(tiny), 'bfloat16').encode(TEXTS, 'query')
  assert (whole != lower).any() and ((whole * lower).sum(1) > 0.999).all()


def test_no_accelerator_is_touched_unless_one_is_named(tiny):
  """A process of its own: what JAX has begun cannot be undone."""
  code = (
    'import sys, jax\nfrom jaxsearch.encoding import text_encoder\n'
    'text_encoder.open(sys.argv[1])\nprint(jax.config.jax_platforms)\n'
  )
  env = {name: value for name, value in tiny_lib.variables().items() if name != 'JAX_PLATFORMS'}
  done = subprocess.run(
    [sys.executable, '-c', code, str(tiny)], env=env, capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == ['cpu']


# --- What a folder says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  'place, pooling, query, passage',
  [
    ('e5-base-v2', 'mean', 'query: ', 'passage: '),
    ('models--intfloat--multilingual-e5-small/snapshots/0123abcd', 'mean', 'query: ', 'passage: '),
    ('multilingual-e5-large-instruct', 'mean', '', ''),
    ('bge-small-en-v1.5', 'cls', 'Represent this sentence for searching relevant passages: ', ''),
    ('one5-large', 'mean', '', ''),
  ],
)
def test_families_with_prefixes_are_known_by_name(tiny, tmp_path, place, pooling, query, passage):
  folder = shutil.copytree(tiny, tmp_path / place)
  recipe = Folder(folder).recipe
  assert (recipe.pooling, recipe.query_prefix, recipe.passage_prefix) == (pooling, query, passage)
  assert recipe.normalize and recipe.max_tokens == 80
  # What the folder itself says counts more.
  encoders.sentences(folder, 'cls', normalize=False, prompts={'query': 'Q ', 'passage': ''})
  recipe = Folder(folder).recipe
  told = (recipe.pooling, recipe.query_prefix, recipe.passage_prefix, recipe.normalize)
  assert told == ('cls', 'Q ', '', False)


def test_the_name_in_the_configuration_counts_too(copied):
  encoders.edit(copied / 'config.json', _name_or_path='BAAI/bge-base-en')
  assert Folder(copied).recipe.pooling == 'cls'


def test_every_file_that_counts_is_in_the_hash(copied):
  encoders.sentences(copied, prompts={'query': 'Q '}, max_seq_length=70)
  hashes = {Folder(copied).sha256()}
  (copied / 'README.md').write_text('Not a part of it.')
  hashes.add(Folder(copied).sha256())
  assert len(hashes) == 1
  files = [path for path in sorted(copied.rglob('*.json')) if path.name != 'README.md']
  assert len(files) == 6
  for path in [*files, copied / 'model.safetensors']:
    path.write_bytes(path.read_bytes() + b' ')
    hashes.add(Folder(copied).sha256())
  assert len(hashes) == 8


def test_weights_are_read_in_the_type_in_which_they_are_kept(copied):
  path = copied / 'model.safetensors'
  kept = {name: x.astype(np.float16) for name, x in safetensors.numpy.load_file(path).items()}
  safetensors.numpy.save_file(kept, path)
  half = text_encoder.open(str(copied)).encode(TEXTS, 'query')
  safetensors.numpy.save_file({name: x.astype(np.float32) for name, x in kept.items()}, path)
  np.testing.assert_array_equal(half, text_encoder.open(str(copied)).encode(TEXTS, 'query'))


def _tensors(folder, change):
  path = folder / 'model.safetensors'
  held = safetensors.numpy.load_file(path)
  change(held)
  safetensors.numpy.save_file(held, path)


BROKEN = {
  'no_configuration': (lambda f: (f / 'config.json').unlink(), 'config.json cannot be read'),
  'no_tokenizer': (lambda f: (f / 'tokenizer.json').unlink(), 'tokenizer.json cannot be read'),
  'no_weights': (lambda f: (f / 'model.safetensors').unlink(), 'model.safetensors'),
  'family': (lambda f: encoders.edit(f / 'config.json', model_type='mpnet'), "'mpnet'.*roberta"),
  'activation': (lambda f: encoders.edit(f / 'config.json', hidden_act='relu'), "'relu'"),
  'relative': (
    lambda f: encoders.edit(f / 'config.json', position_embedding_type='relative_key'),
    "'relative_key'",
  ),
  'no_size': (lambda f: encoders.edit(f / 'config.json', hidden_size=None), 'hidden_size'),
  'heads': (lambda f: encoders.edit(f / 'config.json', num_attention_heads=5), 'divide'),
  'pooling': (lambda f: encoders.sentences(f, 'max'), "1_Pooling.*'max'.*mean, cls"),
  'module': (
    lambda f: (f / 'modules.json').write_text(
      json.dumps(
        [
          {'type': f'sentence_transformers.models.{m}', 'path': ''}
          for m in ('Transformer', 'Dense')
        ]
      )
    ),
    'modules Transformer, Dense',
  ),
  'vocabulary': (lambda f: encoders.edit(f / 'config.json', vocab_size=9), 'id 23.*vocab_size.* 9'),
  'tensor_missing': (
    lambda f: _tensors(f, lambda t: t.pop('encoder.layer.1.attention.self.key.bias')),
    'encoder.layer.1.attention.self.key.bias is missing; shape .48,',
  ),
  'tensor_left_over': (
    lambda f: _tensors(f, lambda t: t.update(extra=np.zeros(3))),
    'extra is not a part of this model',
  ),
  'tensor_of_another_shape': (
    lambda f: encoders.edit(f / 'config.json', intermediate_size=90),
    r'encoder.layer.1.output.dense.weight has shape .48, 88.; it must be .48, 90.',
  ),
  'not_finite': (
    lambda f: _tensors(f, lambda t: t['embeddings.LayerNorm.bias'].fill(np.nan)),
    'not finite',
  ),
}


@pytest.mark.parametrize('name', BROKEN)
def test_what_cannot_be_used_is_refused_by_name(copied, name):
  change, message = BROKEN[name]
  change(copied)
  with pytest.raises(UserError, match=f'(?s){message}'):
    text_encoder.open(str(copied))


def test_the_other_kind_of_encoder_is_refused(copied, tmp_path):
  with pytest.raises(UserError, match='classifier.weight is missing'):
    cross_encoder.open(str(copied))
  encoders.write(tmp_path, head='ForSequenceClassification')
  with pytest.raises(UserError, match='classifier.weight is not a part of this model'):
    text_encoder.open(str(tmp_path))


def test_an_unknown_type_is_refused(tiny):
  with pytest.raises(UserError, match="'int7'; allowed: float32"):
    text_encoder.open(str(tiny), 'int7')
