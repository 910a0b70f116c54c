"""Kernels for CPUs, in C++: compiled once on the machine that runs them, and called by XLA.

`cpu.cc` is compiled for this very processor by the compiler that `CXX` names, or c++, when it is
first needed, and kept in the user's cache folder. XLA runs it on its own threads (jax.ffi). Where
there is no compiler everything else works as before: only what asks for these kernels is refused.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxlib

from jaxsearch.types import UserError

_SOURCE = pathlib.Path(__file__).with_name('cpu.cc')
_FLAGS = ('-std=c++17', '-O3', '-ffp-contract=fast', '-shared', '-fPIC', '-w')
_OTHERWISE = "take rollout.cache='blocked' (`bench rollout --cache=blocked`)"
_TARGETS = ('jaxsearch_products', 'jaxsearch_attend')
# Columns of a panel of a packed matrix, and tokens whose keys lie next to each other, component by
# component: kPanel and kLane in cpu.cc.
PANEL, LANE = 48, 16


def require() -> None:
  """Compiles and registers the kernels, once a process.

  Raises:
    UserError: there is no compiler, or it fails.
  """
  _register()


def products(
  x_MD: jax.Array, panels: Sequence[jax.Array], columns: Sequence[int]
) -> list[jax.Array]:
  """x times each of some matrices, float32 [M,N] for its N of `columns`.

  A matrix [D,N] is packed as [P,D,PANEL]: column n is column n % PANEL of panel n // PANEL.
  """
  shapes = [jax.ShapeDtypeStruct((x_MD.shape[0], n), jnp.float32) for n in columns]
  return jax.ffi.ffi_call('jaxsearch_products', shapes)(x_MD, *panels)


def attend(
  q_RCQH: jax.Array,
  k_RCKH: jax.Array,
  v_RCKH: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  *,
  pages_RN: jax.Array,
  start_R: jax.Array,
  count_R: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Writes tokens into pages, then lets their scaled queries attend to all of their row.

  All rows are written before any of them attends. Everything is float32.

  Args:
    q_RCQH: C tokens of R rows.
    k_RCKH: theirs.
    v_RCKH: theirs.
    keys: [P,K,B/LANE,H,LANE], pages of B tokens, a multiple of 64; written in place.
    values: [P,K,B,H].
    pages_RN: int32, of each row.
    start_R: int32, tokens of the row before these.
    count_R: int32, how many of the C there are; 0 for a row that does nothing.

  Returns:
    [R,C,Q,H], 0 where there is no token; keys; values.
  """
  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (q_RCQH, keys, values)]
  call = jax.ffi.ffi_call('jaxsearch_attend', shapes, input_output_aliases={3: 1, 4: 2})
  return tuple(call(q_RCQH, k_RCKH, v_RCKH, keys, values, pages_RN, start_R, count_R))


@functools.cache
def _register() -> None:
  made = _library()
  try:
    handle = ctypes.cdll.LoadLibrary(str(made))
  except OSError as error:
    raise UserError(
      f'the kernels in {made} cannot be loaded: {error}. Delete that file, let XDG_CACHE_HOME name '
      f'a folder from which programs may run, or {_OTHERWISE}.'
    ) from None
  for name in _TARGETS:
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(handle, name)), platform='cpu')


def _library() -> pathlib.Path:
  """The shared library, compiled if it is not there; a file of its own for whatever shapes it."""
  compiler = shlex.split(os.environ.get('CXX', '')) or ['c++']
  if not shutil.which(compiler[0]):
    raise UserError(
      f"there is no C++ compiler {compiler[0]!r}, which rollout.cache='native' needs for its "
      'kernels. Install one (Debian: g++; macOS: xcode-select --install), name yours with CXX, or '
      f'{_OTHERWISE}.'
    )
  command = [*compiler, *_FLAGS, _for_this_processor()]
  name = hashlib.sha256('\0'.join(_shaped_by(command)).encode()).hexdigest()[:16]
  caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  made = pathlib.Path(caches, 'jaxsearch', f'cpu-{name}.so')
  if not made.exists():
    try:
      _compile(command, made)
    except OSError as error:
      raise UserError(
        f"the kernels of rollout.cache='native' cannot be written to {made.parent}: {error}. Name "
        f'another folder with XDG_CACHE_HOME, or {_OTHERWISE}.'
      ) from None
  return made


def _compile(command: list[str], made: pathlib.Path) -> None:
  made.parent.mkdir(parents=True, exist_ok=True)
  # Under another name until it is whole: other processes may want it at the same time.
  with tempfile.TemporaryDirectory(dir=made.parent) as folder:
    out = os.path.join(folder, made.name)
    command = [*command, f'-isystem{jax.ffi.include_dir()}', str(_SOURCE), '-o', out]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      raise UserError(
        f"the kernels of rollout.cache='native' do not compile: {shlex.join(command)} says "
        f'{done.stderr.strip()[:500]!r}. Name another compiler with CXX, or {_OTHERWISE}.'
      )
    os.replace(out, made)


def _for_this_processor() -> str:
  is_arm = platform.machine().lower() in ('arm64', 'aarch64')
  return '-mcpu=native' if is_arm else '-march=native'


def _shaped_by(command: list[str]) -> list[str]:
  """Whatever a compiled file depends on: a home folder may be shared by different machines."""
  version = subprocess.run([*command, '--version'], capture_output=True, text=True).stdout
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  parts = ('flags', 'Features', 'model name', 'CPU part')
  processor = sorted({line for line in lines if line.startswith(parts)})
  system = [platform.machine(), platform.processor(), *platform.libc_ver(), jaxlib.__version__]
  return [_SOURCE.read_text(), *command, version, *system, *processor]
