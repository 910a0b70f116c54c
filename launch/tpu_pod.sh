#!/usr/bin/env bash
# Runs one verb on every host of a Cloud TPU slice and watches it to its end:
#   launch/tpu_pod.sh [--dry_run] NAME ZONE VERB [flags]
# A slice NAME that is there is used. Otherwise one is created: TYPE is its accelerator type
# (v5litepod-16), VERSION its software (v2-alpha-tpuv5-lite), SPOT=1 takes one that may be pre-empted,
# QUEUED=1 waits for it in the queue of queued resources and CREATE has more flags of gcloud's command.
# The last commit is copied to every host and installed with PYTHON (3.11 or newer). The verb does not
# need this terminal: the same command again finds it running and only watches. After a pre-emption
# the slice is created anew, after another loss only the verb is started again, and it goes on from
# its last checkpoint; ATTEMPTS starts at most. DELETE=1 deletes the slice when the verb is done.
# run_dir and every file in the configuration must be visible to all hosts: SETUP is a command that
# each of them runs before the installation, such as one that mounts a bucket. XLA_SET, STAGE_DIR and
# an index in a bucket as in launch/host.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -ge 3 ] || usage
name=$1
zone=$2
shift 2
verb=("$@")
poll=${POLL:-30} # Seconds between two looks at a slice that changes.

vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)
read -r -a more <<<"${CREATE:-}"
more+=(${SPOT:+--spot})

# The state of the slice, or of its place in the queue; nothing if there is none. It is asked with
# `list`, which tells "not there" from "not reached": by mistake nothing is deleted.
state() {
  local look=("${vm[@]}" list --format='value(state)')
  if [ -n "${QUEUED:-}" ]; then
    look=("${queue[@]}" list --format='value(state.state)')
  fi
  "${look[@]}" --zone="$zone" --filter="name~/$name\$"
}

create() {
  local type=${TYPE:-} version=${VERSION:-}
  if [ -z "$type" ] || [ -z "$version" ]; then
    mend "there is no slice $name in $zone; say with TYPE and VERSION what to create."
  fi
  if [ -n "${QUEUED:-}" ]; then
    step "${queue[@]}" create "$name" --node-id="$name" --zone="$zone" \
      --accelerator-type="$type" --runtime-version="$version" "${more[@]}"
  else
    step "${vm[@]}" create "$name" --zone="$zone" \
      --accelerator-type="$type" --version="$version" "${more[@]}"
  fi
}

delete() {
  if [ -n "${QUEUED:-}" ]; then
    step "${queue[@]}" delete "$name" --zone="$zone" --force --quiet
  else
    step "${vm[@]}" delete "$name" --zone="$zone" --quiet
  fi
}

# Returns when the slice is there; false if a request for it was refused.
bring() {
  local now
  if [ -n "$dry_run" ]; then
    [ -z "${TYPE:-}" ] || create
    return
  fi
  while true; do
    now=$(state) || now=unknown
    case $now in
      READY | ACTIVE) return ;;
      '') create || return ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED) delete || sleep "$poll" ;;
      STOPPED) mend "the slice $name is stopped; start it or delete it." ;;
      *) sleep "$poll" ;;
    esac
    echo "$name: ${now:-requested}"
  done
}

# on_all COMMAND: on every host.
on_all() {
  step "${vm[@]}" ssh "$name" --zone="$zone" --worker=all \
    --ssh-flag='-o ServerAliveInterval=30' --command="$1" --quiet
}

# Copies the code to every host, sets it up and starts the verb there.
start() {
  local hosts=HOSTS variables
  step "${vm[@]}" scp "$archive" "$name:jaxsearch.tar.gz" --zone="$zone" --worker=all --quiet &&
    on_all "mkdir -p jaxsearch && cd jaxsearch && $clear && tar -xzf ../jaxsearch.tar.gz" &&
    { [ -z "${SETUP:-}" ] || on_all "$SETUP"; } &&
    on_all "cd jaxsearch && PYTHON=${PYTHON:-python3} launch/install.sh tpu" || return
  if [ -z "$dry_run" ]; then
    hosts=$("${vm[@]}" describe "$name" --zone="$zone" --format='value(networkEndpoints.len())') ||
      return
  fi
  variables=(JAX_PLATFORMS="tpu,cpu" JAXSEARCH_COORDINATOR=auto JAXSEARCH_NUM_PROCESSES="$hosts")
  variables+=(${XLA_SET:+"XLA_SET=$XLA_SET"} ${STAGE_DIR:+"STAGE_DIR=$STAGE_DIR"})
  on_all "cd jaxsearch && $(quoted env "${variables[@]}" launch/detached.sh start "${verb[@]}")"
}
# Of an earlier copy only what was installed and written stays.
clear='find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -rf {} +'

runs() {
  local detached=jaxsearch/launch/detached.sh
  [ -z "$dry_run" ] && on_all "[ -x $detached ] && $detached running"
}

# Shows the logs until the verb ended on every host or the slice is lost; sets `codes`.
watch() {
  until on_all 'jaxsearch/launch/detached.sh wait'; do
    sleep "$poll"
    case $(state || echo unknown) in
      unknown) ;;
      READY | ACTIVE) runs || break ;;
      *) return ;;
    esac
  done
  mapfile -t codes < <(on_all 'jaxsearch/launch/detached.sh code' || echo none)
}

archive=${TMPDIR:-/tmp}/jaxsearch-$name.tar.gz
trap 'rm -f "$archive"' EXIT
step git archive --format=tar.gz --output="$archive" HEAD
for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
  codes=()
  if bring && { runs || start; }; then
    watch
  elif [ "$attempt" -eq 1 ]; then
    exit 1 # Before anything ran, a failure is shown and not repeated.
  fi
  if [ -n "$dry_run" ]; then
    printf '%s\n' "${codes[@]}" '# After a pre-emption, before the same again:'
    delete
    exit
  fi
  case $(next_step "${codes[@]}") in
    done)
      [ -z "${DELETE:-}" ] || delete
      exit
      ;;
    mend) mend 'the verb ended with code 2; its log above says what to mend.' ;;
  esac
  echo "$name: start $attempt of $ATTEMPTS ended with codes ${codes[*]:-of no host}"
  sleep "$poll"
done
exit 1
