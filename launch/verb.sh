# shellcheck shell=bash
# Sourced by the scripts that run verbs on this machine: their environment, and `verb NAME FLAGS`.

# Programs that one verb has compiled are read from disk by the next.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}

verb() {
  printf '\n== jaxsearch %s\n' "$*"
  .venv/bin/jaxsearch "$@"
}
