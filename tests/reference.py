"""Tiny models of the reference library with random weights, in folders as the hub has them."""

import pytest

from jaxsearch.text import tokenizer

TEXTS = ['amber birch cedar dune ember fjord', 'What lies near the amber dune? The birch lies.']
SHAPE = {
  'vocab_size': 307,
  'hidden_size': 48,
  'intermediate_size': 88,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 12,
  'rms_norm_eps': 1e-6,
  'tie_word_embeddings': True,
  'max_position_embeddings': 4096,
}
_SLOW = {
  'rope_type': 'llama3',
  'rope_theta': 5e5,
  'factor': 32.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 64,
}
# What the families differ in, and what their own models differ in.
MODELS = {
  'qwen2': ('Qwen2', {'rope_theta': 1e6}),
  'qwen2_untied': ('Qwen2', {'tie_word_embeddings': False, 'num_key_value_heads': 1}),
  'qwen3': ('Qwen3', {'num_attention_heads': 2, 'head_dim': 32, 'rope_theta': 1e6}),
  'qwen3_untied': ('Qwen3', {'tie_word_embeddings': False, 'num_key_value_heads': 4}),
  'llama3p2': ('Llama', {'rope_parameters': _SLOW, 'rms_norm_eps': 1e-5}),
  'llama': ('Llama', {'tie_word_embeddings': False, 'vocab_size': 304, 'head_dim': 16}),
}


def write(name, folder, file_size='1GB'):
  """Writes a model and its tokenizer; returns (torch, the model)."""
  torch = pytest.importorskip('torch', reason='the reference models are written in torch')
  import transformers

  kind, options = MODELS[name]
  config = getattr(transformers, f'{kind}Config')(
    **SHAPE | options,
    bos_token_id=None,
    eos_token_id=0,
    attn_implementation='eager',
  )
  torch.manual_seed(0)
  model = getattr(transformers, f'{kind}ForCausalLM')(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():  # Norms and biases too, which are made 1 and 0.
      parameter.add_(0.1 * torch.randn_like(parameter))
  tokenizer.train(TEXTS, 290, folder)
  model.save_pretrained(folder, max_shard_size=file_size)
  return torch, model
