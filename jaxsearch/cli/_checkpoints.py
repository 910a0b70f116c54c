"""The verbs between our policy folders and Hugging Face's: `import` and `export`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from absl import flags

from jaxsearch.cli import _flags, _paths


def import_policy(argv: list[str]) -> None:
  """Make a policy folder of a Hugging Face model; runs take such a model as it is, too."""
  values = flags.FlagValues()
  hf = flags.DEFINE_string('hf', None, 'Folder with config.json.', values, required=True)
  out = flags.DEFINE_string('out', None, 'Policy folder to write.', values, required=True)
  _flags.parse('import', values, argv)
  _paths.require_new('--out', out.value)
  checkpoint = _on_cpu()
  size, params, tokenizer = checkpoint.load_policy(hf.value, None)
  checkpoint.save_policy(out.value, size, params, tokenizer)
  print(f'{out.value}: a policy of {_count(params)} parameters, in float32')


def export_policy(argv: list[str]) -> None:
  """Write a policy as a Hugging Face model, which transformers and its servers load."""
  values = flags.FlagValues()
  source = flags.DEFINE_string(
    'checkpoint', None, 'Policy folder, such as RUN/policy.', values, required=True
  )
  hf = flags.DEFINE_string('hf', None, 'Folder to write.', values, required=True)
  dtypes = ['float32', 'bfloat16']
  dtype = flags.DEFINE_enum('dtype', dtypes[0], dtypes, 'Every bit, or half the size.', values)
  _flags.parse('export', values, argv)
  _paths.require_new('--hf', hf.value)
  family = _on_cpu().export_policy(source.value, hf.value, dtype.value)
  print(f'{hf.value}: a {family} model in {dtype.value}')


def _on_cpu() -> ModuleType:
  """The module `checkpoint`; files are rewritten in the host's memory, not in an accelerator's."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  from jaxsearch import checkpoint

  return checkpoint


def _count(params: Any) -> str:
  import jax

  return f'{sum(leaf.size for leaf in jax.tree.leaves(params)):,}'
