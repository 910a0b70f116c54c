#!/usr/bin/env bash
# Runs one verb in N processes of this machine that train together:
#   launch/local_processes.sh [--dry_run] N VERB [flags]
# For CPUs, where each process has its own devices: on accelerators one process drives all those of a
# machine (launch/gpus.sh). The first failure ends all. XLA_SET and an index in a bucket as in
# launch/host.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  usage
fi
n=$1
shift
port=PORT
if [ -z "$dry_run" ]; then
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
fi

declare -A running=()
trap 'kill "${!running[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < n; i++)); do
  meeting=(JAXSEARCH_COORDINATOR="localhost:$port" JAXSEARCH_NUM_PROCESSES="$n")
  command=(env "${meeting[@]}" JAXSEARCH_PROCESS_ID="$i" launch/host.sh "$@")
  if [ -n "$dry_run" ]; then
    step "${command[@]}"
    continue
  fi
  "${command[@]}" > >(sed -u "s/^/[$i] /") 2>&1 &
  running[$!]=$i
done
while [ ${#running[@]} -gt 0 ]; do
  code=0
  wait -n -p ended "${!running[@]}" || code=$?
  if [ "$code" -ne 0 ]; then
    echo "process ${running[$ended]} of $n ended with exit code $code" >&2
    exit "$code"
  fi
  unset "running[$ended]"
done
