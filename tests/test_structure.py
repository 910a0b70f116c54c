"""The house rules that can be told from the source: layers, sizes, documentation, live options."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jaxsearch
from jaxsearch import config, fields

ROOT = pathlib.Path(jaxsearch.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))
LAYERS = (
  'types config plugins fields files relations validation interruption supervision',
  'questions sources world text protocols retrieval rewards algo kernels models',
  'sharding huggingface encoding checkpoint metrics progress trajectories',
  'rollout batching microbatches intake weights forward learner',
  'trainer training_run warmstart collection evaluation report plan',
  'bench',
  'cli __main__',
)
LAYER = {unit: i for i, units in enumerate(LAYERS) for unit in units.split()}
WITHOUT_JAX = (
  'types config plugins fields files relations validation interruption supervision '
  'questions sources world text protocols retrieval rewards'
)
# What a backend imports from above when it opens, and nowhere else: its worker process is a program
# of its own: the engine that writes, the encoder of queries.
WHEN_OPENED = {
  'retrieval/backends/dense.py': {'encoding'},
  'retrieval/backends/engine_simulator.py': {'rollout'},
  'retrieval/reranking.py': {'encoding'},
}
OPENING = ('open', 'open_encoder')


def _unit(path):
  return path.relative_to(ROOT).with_suffix('').parts[0]


def _module(path):
  parts = path.relative_to(ROOT.parent).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def _imported_units(path):
  """Top-level parts of jaxsearch that a file imports, wherever in the file it does."""
  tree = ast.parse(path.read_text())
  opening = {node for f in tree.body if getattr(f, 'name', '') in OPENING for node in f.body}
  allowed = WHEN_OPENED.get(path.relative_to(ROOT).as_posix(), set())
  return _units_of(set(ast.walk(tree)) - opening) | (_units_of(opening) - allowed)


def _units_of(nodes):
  units = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    units |= {name.split('.')[1] for name in names if name.startswith('jaxsearch.')}
  return units


def _functions(path):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
  return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def _names(paths):
  return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize('path', FILES, ids=_names(FILES))
def test_imports_point_down(path):
  if path == ROOT / '__init__.py':
    assert not _imported_units(path)
    return
  unit = _unit(path)
  assert unit in LAYER, f'give {unit} a layer in this test and in BUILD.md'
  above = {other for other in _imported_units(path) if LAYER[other] > LAYER[unit]}
  assert not above, f'{path} imports {above} from a layer above its own'


def test_no_part_imports_itself_in_a_circle():
  graph = {}
  for path in FILES:
    if path != ROOT / '__init__.py':
      unit = _unit(path)
      graph.setdefault(unit, set()).update(_imported_units(path) - {unit})
  while graph:
    leaves = {unit for unit, below in graph.items() if not below & graph.keys()}
    assert leaves, f'circle among {sorted(graph)}'
    graph = {unit: below for unit, below in graph.items() if unit not in leaves}


def test_only_the_command_line_knows_the_world_and_flags():
  for path in FILES:
    if _unit(path) not in ('world', 'cli'):
      assert 'world' not in _imported_units(path), path
    if _unit(path) != 'cli':
      assert 'absl' not in path.read_text(), path


def test_host_modules_never_import_jax():
  host = [p for p in FILES if p.parent != ROOT or p.name != '__init__.py']
  host = [_module(p) for p in host if _unit(p) in [*WITHOUT_JAX.split(), 'metrics', 'trajectories']]
  host += ['jaxsearch.cli', 'jaxsearch.report']
  code = (
    f'import importlib, sys\nfor name in {host!r}:\n  importlib.import_module(name)\n'
    '  assert sys.modules.get("jax") is None, name\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_every_option_is_read():
  """By its own name, somewhere outside the files that list and check the options."""
  read = set()
  for path in FILES:
    if path.name not in ('config.py', 'fields.py', 'files.py', 'relations.py', 'validation.py'):
      tree = ast.parse(path.read_text())
      read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
  unread = [n for n, _ in fields.flatten(config.Config()) if n.split('.')[-1] not in read]
  assert not unread, f'nothing reads {unread}'


@pytest.mark.parametrize('path', FILES, ids=_names(FILES))
def test_every_public_symbol_is_documented(path):
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree), f'{path} does not say what it is for'
  kinds = (ast.FunctionDef, ast.ClassDef)
  public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith('_')]
  if path == ROOT / 'config.py':  # The comments beside the fields say more than a sentence would.
    public = []
  assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize('path', FILES, ids=_names(FILES))
def test_files_and_functions_stay_small(path):
  assert len(path.read_text().splitlines()) <= 300
  long = [f.name for f in _functions(path) if f.end_lineno - f.lineno + 1 > 60]
  assert not long, f'{path}: {long} exceed 60 lines'


@pytest.mark.parametrize('path', FILES, ids=_names(FILES))
def test_every_signature_is_typed(path):
  for function in _functions(path):
    arguments = function.args
    known = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    bare = [a.arg for a in known if a.annotation is None and a.arg not in ('self', 'cls')]
    assert not bare, f'{path}:{function.lineno} {function.name} leaves {bare} without a type'
    if function.name != '__init__':
      assert function.returns, f'{path}:{function.lineno} {function.name} has no return type'
