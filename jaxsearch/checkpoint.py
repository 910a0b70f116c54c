"""What outlives a process: checkpoints of a run, and policy folders.

A checkpoint or a policy folder is either there as a whole or not there: everything is written under
a temporary name next to its place and renamed when complete. What a killed process left behind is
swept away by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers as keep

from jaxsearch import config as config_lib
from jaxsearch import plugins, sharding
from jaxsearch.huggingface import adapters as adapters_lib
from jaxsearch.huggingface import reading, writing
from jaxsearch.text import tokenizer as tokenizer_lib
from jaxsearch.text.tokenizer import Tokenizer
from jaxsearch.types import UserError

Params = Any


class RunCheckpoints:
  """The checkpoints of one run: `<folder>/<step>/{params,rest,meta,metrics}`.

  Kept are the newest `checkpoints_kept` and the one with the highest dev score (the newer of
  equals). Every host calls every method, on a folder that all hosts see.
  """

  def __init__(self, folder: str | pathlib.Path, schedule: config_lib.Schedule):
    """Opens or makes `folder`, and removes what was never committed."""
    newest = keep.LatestN(schedule.checkpoints_kept)
    best = keep.BestN(get_metric_fn=_dev, n=1, keep_checkpoints_without_metrics=False)
    self._orbax = ocp.CheckpointManager(
      pathlib.Path(folder).absolute(),
      item_names=('params', 'rest', 'meta'),
      options=ocp.CheckpointManagerOptions(
        best_fn=_dev,  # Without it the scores are not written down.
        preservation_policy=keep.AnyPreservationPolicy([newest, best]),
        cleanup_tmp_directories=True,
      ),
    )

  def save(self, step: int, state: Any, meta: dict[str, Any], dev_score: float | None) -> None:
    """Copies `state` off the devices and returns; it is committed in the background.

    Args:
      step: updates done; must be new.
      state: has params, opt_state and step, like `learner.TrainState`.
      meta: JSON that comes back with the state.
      dev_score: larger is better; None where nothing was measured.
    """
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      rest=ocp.args.StandardSave(_rest(state)),
      meta=ocp.args.JsonSave(meta),
    )
    metrics = None if dev_score is None else {'dev': dev_score}
    self._orbax.save(step, args=items, metrics=metrics, force=True)

  def restore_latest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """(state, meta) of the newest committed checkpoint; None if there is none.

    Args:
      abstract_state: shapes, dtypes and shardings to restore into.
    """
    if self.latest is None:
      return None
    items = ocp.args.Composite(
      params=ocp.args.StandardRestore(abstract_state.params),
      rest=ocp.args.StandardRestore(_rest(abstract_state)),
      meta=ocp.args.JsonRestore(),
    )
    found = self._orbax.restore(self.latest, args=items)
    return dataclasses.replace(abstract_state, params=found.params, **found.rest), found.meta

  def restore_params(self, step: int, abstract_params: Params) -> Params:
    """Parameters alone of one committed step, for evaluating or exporting them."""
    items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params))
    return self._orbax.restore(step, args=items).params

  @property
  def latest(self) -> int | None:
    """Newest step saved; it may still be on its way to disk until the next `save` or `wait`."""
    return self._orbax.latest_step()

  @property
  def best(self) -> int | None:
    """Committed step with the highest dev score, the newer of equals; None if none was scored."""
    scores = {step: self._orbax.metrics(step) for step in self._orbax.all_steps()}
    scored = [(_dev(metrics), step) for step, metrics in scores.items() if metrics]
    return max(scored)[1] if scored else None

  def wait(self) -> None:
    """Returns when everything saved is committed; raises what the background met."""
    self._orbax.wait_until_finished()
    self._orbax.check_for_errors()

  def close(self) -> None:
    """Waits, and ends the background threads."""
    self.wait()
    self._orbax.close()


def save_policy(
  folder: str | pathlib.Path, size: Any, params: Params, tokenizer: Tokenizer
) -> None:
  """Writes a policy folder: size.json, params/ and the tokenizer's Hugging Face files.

  Args:
    folder: replaced if it is there. Its parent must exist.
    size: the family's `Size`; its module's name is the family.
    params: on any sharding; every host calls.
    tokenizer: of the policy.
  """
  with _whole(folder) as partial:
    if jax.process_index() == 0:
      family = type(size).__module__.rpartition('.')[2]
      text = json.dumps({'family': family, **dataclasses.asdict(size)}, indent=2)
      (partial / 'size.json').write_text(text + '\n')
      tokenizer_lib.save(tokenizer, partial)
    with ocp.StandardCheckpointer() as writer:
      writer.save(partial / 'params', params)


def save_adapters(
  folder: str | pathlib.Path, size: Any, adapters: Params, policy: config_lib.Policy
) -> None:
  """Writes adapters in the format of PEFT.

  Args:
    folder: replaced if it is there. Its parent must exist.
    size: of the policy beneath.
    adapters: on any sharding; every host calls.
    policy: what they were trained on, and how they are scaled.
  """
  with _whole(folder) as partial:
    if jax.process_count() > 1:
      adapters = multihost_utils.process_allgather(adapters, tiled=True)
    if jax.process_index() == 0:
      base, alpha = str(pathlib.Path(policy.path).absolute()), policy.lora_alpha
      adapters_lib.write(partial, size, adapters, alpha=alpha, base=base)


def export_policy(folder: str | pathlib.Path, out: str | pathlib.Path, dtype: str) -> str:
  """Writes a policy folder as a model of Hugging Face, by this process alone; returns its family.

  Args:
    folder: as `load_policy` takes it.
    out: replaced if it is there. Its parent must exist.
    dtype: of the weights in the files.

  Raises:
    UserError: as `load_policy`, and if no family of Hugging Face is like this policy.
  """
  size, params, tokenizer = load_policy(folder, None)
  family = writing.family(size)
  with _whole(out) as partial:
    writing.write(partial, size, params, tokenizer, dtype=dtype)
  return family


def read_size(folder: str | pathlib.Path) -> Any:
  """The `Size` of a policy folder or of a model of Hugging Face.

  Raises:
    UserError: if the folder is neither, or describes a policy that we cannot have.
  """
  folder = pathlib.Path(folder)
  if reading.is_folder(folder):
    return reading.read_size(folder)
  path = folder / 'size.json'
  try:
    fields = json.loads(path.read_text())
    return plugins.load('models', fields.pop('family')).Size(**fields)
  except OSError as error:
    raise UserError(
      f'{folder} is no policy folder: it has neither {path.name}, as `jaxsearch warmstart` and '
      "`jaxsearch import` write it, nor Hugging Face's config.json. A run's is in RUN/policy."
    ) from error
  except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
    raise UserError(
      f'{path} does not describe a policy: {error!r}. It must hold `family`, a file of models/, '
      'and the fields of its Size. Make the folder again.'
    ) from error


def load_policy(folder: str | pathlib.Path, mesh: Mesh | None) -> tuple[Any, Params, Tokenizer]:
  """(size, params, tokenizer) of a policy folder.

  Args:
    folder: written by `save_policy`, or a model of Hugging Face.
    mesh: parameters are split over it by the family's table; None: onto this host's first device.

  Raises:
    UserError: if the folder or a part of it is missing or broken, or does not fit the mesh.
  """
  folder = pathlib.Path(folder).absolute()
  size, tokenizer = read_size(folder), tokenizer_lib.load(folder)
  if tokenizer.vocab_size > size.vocab:
    raise UserError(
      f'the tokenizer in {folder} has {tokenizer.vocab_size} ids, the embedding only {size.vocab} '
      'rows: they do not belong together. Give the folder its own tokenizer back.'
    )
  model = plugins.load('models', type(size).__module__.rpartition('.')[2])
  abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), size))
  if mesh is None:
    places = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), abstract)
  else:
    places = sharding.shardings(abstract, model.AXES, mesh)
  if reading.is_folder(folder):
    return size, reading.read_params(folder, size, places), tokenizer
  abstract = jax.tree.map(
    lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), abstract, places
  )
  if not (folder / 'params').is_dir():
    raise UserError(f'{folder} has no params/: it is no complete policy folder. Make it again.')
  try:
    with ocp.StandardCheckpointer() as reader:
      params = reader.restore(folder / 'params', abstract)
  except (ValueError, KeyError, OSError) as error:
    raise UserError(
      f'{folder}/params cannot be read as the parameters of {size}: {error} Make the folder again.'
    ) from error
  return size, params, tokenizer


def load_reference(config: config_lib.Config, size: Any, mesh: Mesh) -> Params | None:
  """The policy of `policy.reference`, which the KL is measured to; None if none is named.

  Raises:
    UserError: as `load_policy`, and if its size is not the policy's.
  """
  folder = config.policy.reference
  if not folder:
    return None
  found, reference, _ = load_policy(folder, mesh)
  differing = [
    f'{name} = {value!r} and not {getattr(size, name)!r}'
    for name, value in dataclasses.asdict(found).items()
    if name != 'positions' and value != getattr(size, name)
  ]
  if differing:
    raise UserError(
      f'policy.reference={folder!r} is another model than the policy: it has '
      f'{", ".join(differing)}. Name a policy of the same size.'
    )
  return reference


@contextlib.contextmanager
def _whole(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write into, which takes the place of `folder` once it is complete."""
  folder = pathlib.Path(folder).absolute()
  partial, old = (folder.with_name(f'{folder.name}.{end}') for end in ('partial', 'old'))
  if jax.process_index() == 0:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  _meet('policy folder begun')
  yield partial
  _meet('policy folder written')
  if jax.process_index() == 0:
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
      folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
  _meet('policy folder in place')


def _rest(state: Any) -> dict[str, Any]:
  return {'step': state.step, 'opt_state': state.opt_state}


def _dev(metrics: dict[str, float]) -> float:
  return metrics['dev']


def _meet(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
