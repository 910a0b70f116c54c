"""What a Hugging Face folder says of its encoder, in the files that others write and read.

`config.json` has the size, `tokenizer.json` the tokenizer. How a text becomes a vector is said by
the files of sentence-transformers where they exist: `modules.json`, the configurations of the
modules that it lists, the prompts in `config_sentence_transformers.json`. Where they are silent,
families that ask for a prefix are known by their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import tokenizers

from jaxsearch.models import bert
from jaxsearch.types import UserError

_FAMILIES = ('bert', 'roberta', 'xlm-roberta')
_POOLINGS = ('mean', 'cls')
_PROMPTS = 'config_sentence_transformers.json'
_PASSAGE = (
  'document',
  'passage',
  'corpus',
)  # Names that sentence-transformers looks for, in order.


class _Known(NamedTuple):
  """A family of published encoders by its name; prefixes and pooling by its authors' cards."""

  name: re.Pattern[str]
  pooling: str
  query: str
  passage: str


_KNOWN = (
  _Known(re.compile(r'\be5-(small|base|large)(?!.*instruct)'), 'mean', 'query: ', 'passage: '),
  _Known(
    re.compile(r'\bbge-(small|base|large)-en'),
    'cls',
    'Represent this sentence for searching relevant passages: ',
    '',
  ),
  _Known(
    re.compile(r'\bbge-(small|base|large)-zh'), 'cls', '为这个句子生成表示以用于检索相关文章：', ''
  ),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a text becomes a vector.

  Attributes:
    pooling: mean over the tokens, or cls: the first one.
    normalize: to length 1.
    query_prefix, passage_prefix: before every text of that kind.
    lower: texts are put into small letters first.
    max_tokens: what is behind them is cut off.
  """

  pooling: str
  normalize: bool
  query_prefix: str
  passage_prefix: str
  lower: bool
  max_tokens: int


class Folder:
  """A folder whose config.json describes an encoder that we have.

  Attributes:
    path: of the files of the transformer; below the folder that was named, in old folders.
    name: of the model, by its folder.
    size: of the encoder.
  """

  def __init__(self, path: str | pathlib.Path):
    """Reads the configuration.

    Raises:
      UserError: there is none, or it describes another kind of model.
    """
    self._root = pathlib.Path(path)
    self._modules = _modules(self._root)
    self.path = self._root / self._modules.get('Transformer', '')
    self.name = _name(self._root)
    self._config = _json(self.path / 'config.json')
    self.size = _size(self._config, self.path / 'config.json')

  @property
  def recipe(self) -> Recipe:
    """What is done with a text.

    Raises:
      UserError: something else than we do is asked for.
    """
    known = self._known()
    pooling, normalize = known.pooling if known else 'mean', True
    if self._modules:
      pooling, normalize = self._pooling(), 'Normalize' in self._modules
    prompts = _json(self._root / _PROMPTS, {}).get('prompts') or {}
    query = prompts.get('query', '')
    passage = next((prompts[name] for name in _PASSAGE if name in prompts), '')
    if known and not query and not passage:
      query, passage = known.query, known.passage
    lower = bool(self._sentences().get('do_lower_case', False))
    return Recipe(pooling, normalize, query, passage, lower, self.max_tokens)

  @property
  def max_tokens(self) -> int:
    """Of a text, special tokens counted."""
    most = self.size.positions - self.size.first_position
    own = self._sentences().get('max_seq_length')
    own = own or _json(self.path / 'tokenizer_config.json', {}).get('model_max_length')
    return int(min(most, own or most))

  def tokenizer(self) -> tokenizers.Tokenizer:
    """It cuts at `max_tokens`, of the longer one of a pair, and never pads.

    Raises:
      UserError: there is none, or it knows more than the encoder.
    """
    path = self.path / 'tokenizer.json'
    try:
      made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises bare Exception.
      raise UserError(f'{path} cannot be read as a tokenizer: {error}.') from error
    largest = max(made.get_vocab().values())
    if largest >= self.size.vocab:
      raise UserError(
        f'{path} has an id {largest}, but the vocab_size of its config.json is {self.size.vocab}; '
        'take both from the same model.'
      )
    made.no_padding()  # Published folders pad every text to their longest.
    made.enable_truncation(self.max_tokens, strategy='longest_first')
    return made

  def sha256(self) -> str:
    """Of all files that a vector depends on."""
    names = ['config.json', 'tokenizer.json', 'sentence_*config.json', '*.safetensors']
    files = {path for name in names for path in self.path.glob(name)}
    tops = [self._root / name for name in ('modules.json', _PROMPTS)]
    tops += [self._root / place / 'config.json' for place in self._modules.values()]
    whole = hashlib.sha256()
    for path in sorted(files | {top for top in tops if top.is_file()}):
      with path.open('rb') as file:
        whole.update(path.relative_to(self._root).as_posix().encode() + b'\0')
        whole.update(hashlib.file_digest(file, 'sha256').digest())
    return whole.hexdigest()

  def _sentences(self) -> dict[str, Any]:
    """Of the file whose name has changed with the kind of the model."""
    path = next(iter(sorted(self.path.glob('sentence_*config.json'))), None)
    return _json(path) if path else {}

  def _known(self) -> _Known | None:
    names = f'{self.name} {self._config.get("_name_or_path", "")}'.lower()
    return next((known for known in _KNOWN if known.name.search(names)), None)

  def _pooling(self) -> str:
    path = self._root / self._modules['Pooling'] / 'config.json'
    config = _json(path)
    chosen = [config['pooling_mode']] if 'pooling_mode' in config else []
    chosen += [
      re.sub('^pooling_mode_|_tokens?$', '', key)
      for key, value in config.items()
      if key.startswith('pooling_mode_') and value
    ]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
      raise UserError(
        f'{path} asks for pooling {" and ".join(chosen)!r}; supported: {", ".join(_POOLINGS)}.'
      )
    if config.get('include_prompt', True) is False:
      raise UserError(f'{path} leaves the prompt out of the pooling, which is not supported.')
    return chosen[0]


def clean(text: str) -> str:
  """The text as a tokenizer can take it: half a surrogate pair becomes a question mark."""
  return text if text.isascii() else text.encode(errors='replace').decode()


def _modules(root: pathlib.Path) -> dict[str, str]:
  """Kind of each module in modules.json -> its folder; none without such a file."""
  path = root / 'modules.json'
  listed = _json(path, [])
  try:
    modules = {one['type'].rpartition('.')[2]: one['path'] for one in listed}
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path} is no list of modules: {error!r}.') from error
  order = list(modules)
  if order and order not in (['Transformer', 'Pooling'], ['Transformer', 'Pooling', 'Normalize']):
    raise UserError(
      f'{path} has the modules {", ".join(order)}; supported: Transformer, Pooling and, if need '
      'be, Normalize.'
    )
  return modules


def _name(root: pathlib.Path) -> str:
  """Of the folder; in the hub's cache, of the folder above the snapshots."""
  path = root.resolve() if root.name in ('', '.', '..') else root
  if path.parent.name == 'snapshots':
    return path.parent.parent.name.rpartition('--')[2]
  return path.name


def _size(config: Any, path: pathlib.Path) -> bert.Size:
  kind = config.get('model_type') if isinstance(config, dict) else None
  _require(path, 'model_type', kind, _FAMILIES)
  _require(path, 'hidden_act', config.get('hidden_act', 'gelu'), ('gelu',))
  positions = config.get('position_embedding_type') or 'absolute'
  _require(path, 'position_embedding_type', positions, ('absolute',))
  _require(path, 'is_decoder', config.get('is_decoder', False), (False,))
  _require(path, 'quantization_config', config.get('quantization_config'), (None,))
  try:
    size = bert.Size(
      vocab=config['vocab_size'],
      layers=config['num_hidden_layers'],
      embed=config['hidden_size'],
      heads=config['num_attention_heads'],
      hidden=config['intermediate_size'],
      positions=config['max_position_embeddings'],
      types=config['type_vocab_size'],
      norm_eps=config['layer_norm_eps'],
      first_position=0 if kind == 'bert' else config['pad_token_id'] + 1,
    )
  except (KeyError, TypeError) as error:
    raise UserError(f'{path} does not describe an encoder: {error!r}.') from error
  if size.embed % size.heads:
    raise UserError(f'{path} has a hidden_size that num_attention_heads does not divide.')
  return size


def _require(path: pathlib.Path, name: str, value: Any, allowed: tuple[Any, ...]) -> None:
  if value not in allowed:
    choices = ', '.join(map(repr, allowed))
    raise UserError(f'{path} has {name} = {value!r}; supported encoders have {choices}.')


def _json(path: pathlib.Path, otherwise: Any = None) -> Any:
  """The contents of a file that must be there, unless there is something to take otherwise."""
  if otherwise is not None and not path.is_file():
    return otherwise
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read: {error}. Give the folder of a Hugging Face encoder, with '
      'config.json, tokenizer.json and model.safetensors.'
    ) from error
