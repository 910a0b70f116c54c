#!/usr/bin/env bash
# Runs one verb in N processes of this machine that train together:
#   launch/local_processes.sh 2 train --config=configs/x.py
# For CPUs, where each process has its own devices: on accelerators one process drives all those of a
# machine. The first failure ends all.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo 'usage: launch/local_processes.sh N VERB [flags]; N is the number of processes' >&2
  exit 2
fi
n=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if ! [ -x "$python" ]; then
  python=python3
fi
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

declare -A running=()
trap 'kill "${!running[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < n; i++)); do
  JAXSEARCH_COORDINATOR=localhost:$port JAXSEARCH_NUM_PROCESSES=$n JAXSEARCH_PROCESS_ID=$i \
    "$python" -m jaxsearch "$@" > >(sed -u "s/^/[$i] /") 2>&1 &
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
