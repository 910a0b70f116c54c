"""Models of Hugging Face: the same function as theirs, the same bits there and back."""

import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import safetensors.numpy
import tiny

from jaxsearch import checkpoint, config, plugins, sharding
from jaxsearch.cli import main
from jaxsearch.huggingface import families, reading, writing
from jaxsearch.models import decoder
from jaxsearch.rollout import writer
from jaxsearch.types import UserError

# Of numbers around 1, in float32, summed in another order.
TOLERANCE = 2e-5
SLIDING = {'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 0}
SLIDING['layer_types'] = None


@pytest.fixture(scope='module', params=reference.MODELS)
def model(request, tmp_path_factory):
  """(folder, torch, their model, our size, our parameters)."""
  folder = tmp_path_factory.mktemp(request.param)
  torch, theirs = reference.write(request.param, folder)
  size, params, _ = checkpoint.load_policy(folder, None)
  return folder, torch, theirs, size, params


def _assert_close(found, expected):
  expected = np.asarray(expected)
  assert expected.std() > 0.05
  np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


def _tokens(size, rows=3, time=90):
  return np.random.default_rng(0).integers(0, size.vocab, (rows, time)).astype(np.int32)


def test_each_part_is_that_of_the_reference_library(model):
  """Embeddings, one layer, all layers, logits; 90 tokens, where slow rotations begin to matter."""
  _, torch, theirs, size, params = model
  tokens = _tokens(size)
  with torch.no_grad():
    out = theirs(torch.tensor(tokens, dtype=torch.long), output_hidden_states=True)
  embedded, first, *_, last = (x.numpy() for x in out.hidden_states)
  hidden = jax.jit(decoder.hidden, static_argnames=('size', 'dtype', 'scan'))

  def run(layers):
    held = {**params, 'layers': jax.tree.map(lambda leaf: leaf[:layers], params['layers'])}
    options = {'dtype': jnp.float32, 'scan': True}
    return hidden(held, size, tokens, **options)

  _assert_close(params['embed'][tokens], embedded)
  scale = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + size.norm_eps)
  _assert_close(run(1), scale(first) * np.asarray(params['norm']))
  _assert_close(run(size.layers), last)
  logits = run(size.layers) @ decoder.unembedding(params, size).T
  _assert_close(logits, out.logits.numpy())


@pytest.mark.slow
@pytest.mark.parametrize('model', ['qwen2', 'qwen3', 'llama3p2'], indirect=True)
def test_our_engine_continues_greedily_as_the_reference_library_does(model):
  folder, torch, theirs, _, _ = model
  prompts = ['amber birch', 'What lies near the dune? The']
  made = writer.open(str(folder), slots=2, context_tokens=64, answer_tokens=24, temperature=0.0)
  texts = made.write([(prompt, (0,)) for prompt in prompts])
  tokens = checkpoint.load_policy(folder, None)[2]
  for prompt, text in zip(prompts, texts, strict=True):
    ids = torch.tensor(tokens.encode(prompt)[None], dtype=torch.long)
    # Everything that its folder says of sampling is left out.
    out = theirs.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=0, pad_token_id=0)
    written = [i for i in out[0, ids.shape[1] :].tolist() if i != 0]
    assert len(written) > 3
    assert tokens.text_of(written) == text


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_there_and_back_again_no_bit_is_lost(model, dtype, tmp_path):
  """Import, export in the type of the original, load with transformers, import again."""
  folder, torch, theirs, size, params = model
  if dtype == 'bfloat16':
    folder = shutil.copytree(folder, tmp_path / 'theirs')
    copy.deepcopy(theirs).to(torch.bfloat16).save_pretrained(folder)
    size, params, _ = checkpoint.load_policy(folder, None)
  assert main(['import', f'--hf={folder}', f'--out={tmp_path / "ours"}']) == 0
  out = tmp_path / 'again'
  assert (
    main(['export', f'--checkpoint={tmp_path / "ours"}', f'--hf={out}', f'--dtype={dtype}']) == 0
  )
  again = checkpoint.load_policy(out, None)
  assert again[0] == size
  jax.tree.map(np.testing.assert_array_equal, again[1], params)
  described = json.loads((out / 'config.json').read_text())
  assert described['rope_theta'] == size.rope_base  # What readers before transformers 5 look for.
  assert (described['rope_scaling'] is None) == (size.rope_factor == 1.0)
  if dtype == 'float32':
    _assert_loads_as(theirs, folder, out, torch)


def _assert_loads_as(theirs, original, folder, torch):
  import transformers

  loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager')
  assert type(loaded) is type(theirs)
  state = loaded.state_dict()
  assert state.keys() == theirs.state_dict().keys()
  assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
  read = [transformers.AutoTokenizer.from_pretrained(place) for place in (original, folder)]
  assert len({tuple(one('amber dune')['input_ids']) for one in read}) == 1
  ids = torch.tensor([[5, 6, 7]])
  generated = [
    m.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=0, pad_token_id=0)
    for m in (loaded, theirs)
  ]
  assert torch.equal(*generated)


def test_several_files_are_one_model(tmp_path):
  folder = tmp_path / 'theirs'
  reference.write('qwen2_untied', folder, file_size='60KB')
  assert len(list(folder.glob('*.safetensors'))) > 3
  size, params, tokenizer = checkpoint.load_policy(folder, None)
  (tmp_path / 'ours').mkdir()
  writing.write(tmp_path / 'ours', size, params, tokenizer, file_bytes=60_000)
  assert len(list((tmp_path / 'ours').glob('model-*-of-*.safetensors'))) > 3
  again = checkpoint.load_policy(tmp_path / 'ours', None)[1]
  jax.tree.map(np.testing.assert_array_equal, again, params)
  import transformers

  transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'ours')


def test_every_device_reads_its_own_slice(tmp_path):
  """Eight devices (data 2, fsdp 2, tensor 2): the same bits, and no byte is read twice."""
  reference.write('llama', tmp_path, file_size='60KB')
  env = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  root = pathlib.Path(__file__).parents[1]
  done = subprocess.run(
    [sys.executable, __file__, str(tmp_path)],
    env={**env, 'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == {'read': 1.0, 'equal': True}


def _read_on_eight_devices(folder):
  read = []
  plain = reading.Tensors.read
  reading.Tensors.read = lambda *args: read.append(plain(*args)) or read[-1]
  mesh = sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
  _, params, _ = checkpoint.load_policy(folder, mesh)
  moved = sum(part.nbytes for part in read)
  _, expected, _ = checkpoint.load_policy(folder, None)
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(expected))
  equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, expected)
  print(json.dumps({'read': moved / whole, 'equal': all(jax.tree.leaves(equal))}))


@pytest.mark.slow
def test_a_run_starts_from_a_folder_of_hugging_face_as_from_one_of_ours(tiny_folder):
  """Rollouts, updates, evaluations: every figure is the same, to the bit."""
  ours, theirs = tiny_folder / 'start' / 'warmstart' / 'policy', tiny_folder / 'theirs'
  assert main(['export', f'--checkpoint={ours}', f'--hf={theirs}']) == 0
  for run, path in (('from_ours', ours), ('from_theirs', theirs)):
    options = {'policy__path': path, 'schedule__steps': 2, 'schedule__eval_every': 1}
    command = tiny.command('train', tiny_folder, run, **options)
    code, output = tiny.finish(command, tiny_folder / f'{run}.log')
    assert code == 0, output
  assert tiny.repeated(tiny_folder / 'from_theirs') == tiny.repeated(tiny_folder / 'from_ours')


def test_nothing_is_written_over(tmp_path, capsys):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.txt').write_text('finished')
  for verb, here, there in (('import', 'hf', 'out'), ('export', 'checkpoint', 'hf')):
    arguments = [verb, f'--{here}={tmp_path / "mine"}', f'--{there}={tmp_path / "mine"}']
    assert main(arguments) == 2
    assert f'--{there}' in capsys.readouterr().err
  assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'finished'


# --- What is refused ------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
  """A folder that a test may break."""
  reference.write('qwen3', tmp_path / 'model')
  return tmp_path / 'model'


def _refused(folder):
  with pytest.raises(UserError) as error:
    checkpoint.load_policy(folder, None)
  return str(error.value)


def _edit(folder, **fields):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_tensors_that_do_not_belong_are_told_together_by_both_names(broken):
  path = broken / 'model.safetensors'
  held = safetensors.numpy.load_file(path)
  for i in range(3):
    del held[f'model.layers.{i}.self_attn.q_norm.weight']
  held['model.layers.1.mlp.up_proj.weight'] = np.zeros((88, 47), np.float32)
  held['model.layers.7.mlp.up_proj.weight'] = np.zeros((88, 48), np.float32)
  held['model.rotary_emb.inv_freq'] = np.zeros(3, np.float32)
  safetensors.numpy.save_file(held, path)
  said = _refused(broken)
  assert 'model.layers.*.self_attn.q_norm.weight, 3 of them' in said
  assert 'layers/attention/query_norm/scale' in said
  assert 'model.layers.1.mlp.up_proj.weight (layers/mlp/up/kernel) has shape (88, 47)' in said
  assert 'must be (88, 48)' in said
  assert 'model.layers.7.mlp.up_proj.weight is not a part' in said
  assert 'inv_freq' not in said


def test_a_file_that_is_cut_off_is_refused_by_its_name(broken):
  path = broken / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  assert 'model.safetensors: ' in _refused(broken)
  path.unlink()
  assert 'neither model.safetensors nor' in _refused(broken)


def test_files_that_the_index_names_and_nobody_has_are_all_told(tmp_path):
  reference.write('llama', tmp_path, file_size='60KB')
  first, *_, last = sorted(tmp_path.glob('*.safetensors'))
  first.unlink()
  shutil.copy(sorted(tmp_path.glob('*.safetensors'))[0], last)
  said = _refused(tmp_path)
  assert first.name in said and f'{last.name}: holds no ' in said


@pytest.mark.parametrize(
  'fields, says',
  [
    ({'model_type': 'mamba'}, ["'mamba'", 'qwen2']),
    ({'attention_bias': True}, ['attention_bias', 'false']),
    ({'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e6, 'factor': 4.0}}, ["'yarn'"]),
    ({'hidden_act': 'gelu'}, ["'gelu'", 'silu']),
    (SLIDING, ['sliding']),
    ({'quantization_config': {'quant_method': 'awq'}}, ['quantization_config']),
    ({'num_hidden_layers': 'three'}, ['config.json']),
    ({'layer_types': None, 'num_hidden_layers': 4}, ['model.layers.3.mlp.up_proj.weight']),
    ({'vocab_size': 270}, ['270', 'tokenizer']),
  ],
)
def test_what_our_decoder_has_not_is_refused(broken, fields, says):
  _edit(broken, **fields)
  said = _refused(broken)
  assert all(part in said for part in says), said


def test_a_mesh_that_does_not_divide_the_heads_is_refused(broken):
  size = reading.read_size(broken)
  abstract = jax.eval_shape(lambda: decoder.init(jax.random.key(0), size))
  grid = np.array([jax.devices()[0]] * 4, dtype=object).reshape(1, 1, 4)
  mesh = jax.sharding.Mesh(grid, ('data', 'fsdp', 'tensor'))
  with pytest.raises(UserError, match='kv_heads=2 is not divisible by mesh.tensor=4'):
    sharding.shardings(abstract, decoder.AXES, mesh)


def test_a_policy_of_no_family_is_refused(tmp_path, broken):
  size, params, tokenizer = checkpoint.load_policy(broken, None)
  odd = decoder.dataclasses.replace(size, attention_bias=True)
  with pytest.raises(UserError, match='qk_norm=True, attention_bias=True'):
    writing.write(tmp_path, odd, params, tokenizer)


def test_every_family_names_every_parameter_once():
  for name in plugins.names(families.FOLDER):
    family = plugins.load(families.FOLDER, name)
    for names in ([row.ours for row in family.TENSORS], [row.theirs for row in family.TENSORS]):
      assert len(set(names)) == len(names)


if __name__ == '__main__':
  _read_on_eight_devices(sys.argv[1])
