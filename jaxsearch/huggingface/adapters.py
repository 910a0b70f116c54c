"""Writes low-rank adapters as PEFT reads them (github.com/huggingface/peft)."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import safetensors.numpy

from jaxsearch import plugins
from jaxsearch.huggingface import families, writing
from jaxsearch.models import decoder, lora

_PREFIX = 'base_model.model.'


def write(
  folder: str | pathlib.Path,
  size: decoder.Size,
  adapters: lora.Params,
  *,
  alpha: float,
  base: str,
) -> None:
  """Writes adapter_config.json and adapter_model.safetensors.

  Args:
    folder: must exist.
    size: of the policy beneath.
    adapters: as `lora.init` makes them, on this host.
    alpha: adapters are scaled by alpha / rank.
    base: folder or name of the policy beneath.

  Raises:
    UserError: if no family of Hugging Face is like this policy.
  """
  folder = pathlib.Path(folder)
  module = plugins.load(families.FOLDER, writing.family(size))
  tensors: dict[str, np.ndarray] = {}
  targets, rank = [], 0
  for row in module.TENSORS:
    *path, last = row.ours.split('/')
    if last != 'kernel':
      continue
    held = adapters
    for part in path:
      held = held[part]
    targets.append(row.theirs.split('.')[-2])
    a_all, b_all = np.asarray(held[lora.A]), np.asarray(held[lora.B])
    layers, rank = b_all.shape[:2]
    for i in range(layers):
      name = _PREFIX + row.theirs.format(i).removesuffix('.weight')
      tensors[f'{name}.lora_A.weight'] = np.ascontiguousarray(a_all[i].reshape(-1, rank).T)
      tensors[f'{name}.lora_B.weight'] = np.ascontiguousarray(b_all[i].reshape(rank, -1).T)
  safetensors.numpy.save_file(tensors, folder / 'adapter_model.safetensors', {'format': 'pt'})
  described = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': rank,
    'lora_alpha': alpha,
    'lora_dropout': 0.0,
    'bias': 'none',
    'target_modules': sorted(targets),
    'inference_mode': True,
  }
  (folder / 'adapter_config.json').write_text(json.dumps(described, indent=2) + '\n')
