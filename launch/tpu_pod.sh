#!/usr/bin/env bash
# Runs one verb on every host of a Cloud TPU slice:
#   launch/tpu_pod.sh [--dry_run] NAME ZONE VERB [flags]
# Copies the last commit, installs it, starts one process per host. --dry_run prints the commands.
# PYTHON names the hosts' interpreter (3.11 or newer). run_dir and every file in the configuration
# must be visible to all hosts (a mounted bucket).
set -euo pipefail
dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
if [ $# -lt 3 ]; then
  echo 'usage: launch/tpu_pod.sh [--dry_run] NAME ZONE VERB [flags]' >&2
  exit 2
fi
name=$1
zone=$2
shift 2

run() {
  printf '%q ' "$@"
  printf '\n'
  if [ -z "$dry_run" ]; then
    "$@"
  fi
}

root=$(cd "$(dirname "$0")/.." && pwd)
archive=$(mktemp -u --suffix=.tar.gz jaxsearch-XXXXXX --tmpdir)
trap 'rm -f "$archive"' EXIT
on_all=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all)
command=$(printf '%q ' .venv/bin/jaxsearch "$@")
run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$name:jaxsearch.tar.gz" --zone="$zone" --worker=all
run "${on_all[@]}" --command='mkdir -p jaxsearch && tar -xzf jaxsearch.tar.gz -C jaxsearch'
run "${on_all[@]}" --command='cd jaxsearch && PYTHON='"${PYTHON:-python3}"' launch/install.sh tpu'
run "${on_all[@]}" --command="cd jaxsearch && JAXSEARCH_COORDINATOR=auto $command"
