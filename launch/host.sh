#!/usr/bin/env bash
# What every host of a run executes, whoever started it, one process for all its devices:
#   launch/host.sh [--dry_run] VERB [flags]
# XLA_SET names a file of launch/xla_flags/; none is used by default. A flag that ends in
# index=gs://… or index=s3://… is answered from a copy on this host (launch/stage.sh). Paths in flags
# are relative to the repository. PYTHON names an interpreter that has the package.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -gt 0 ] || usage
. launch/verb.sh

if [ -n "${XLA_SET:-}" ]; then
  if [ ! -f "launch/xla_flags/$XLA_SET.env" ]; then
    sets=(launch/xla_flags/*.env)
    sets=("${sets[@]##*/}")
    mend "there is no XLA_SET '$XLA_SET'. Choices: ${sets[*]%.env}."
  fi
  step . "launch/xla_flags/$XLA_SET.env"
fi

arguments=()
for word in "$@"; do
  case $word in
    --*index=gs://* | --*index=s3://*)
      # shellcheck disable=SC2086  # No word if this is no dry run.
      folder=$(launch/stage.sh $dry_run "${word#*=}")
      word=${word%%=*}=$folder
      ;;
  esac
  arguments+=("$word")
done

# Hosts come minutes apart: each has an image to load or an index to copy.
export JAXSEARCH_JOIN_SECONDS=${JAXSEARCH_JOIN_SECONDS:-600}
python=${PYTHON:-.venv/bin/python}
if ! [ -x "$python" ]; then
  python=python3
fi
step exec "$python" -m jaxsearch "${arguments[@]}"
