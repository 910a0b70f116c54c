#!/usr/bin/env bash
# On a host of a slice: a verb that lives on when the connection to the host ends.
#   launch/detached.sh start VERB [flags]  starts launch/host.sh VERB in place of what ran before
#   launch/detached.sh wait                shows the log until the verb ends
#   launch/detached.sh code                prints its exit code, or none
#   launch/detached.sh running             exits with 0 if it runs
#   launch/detached.sh stop                ends it: a notice, and after GRACE seconds by force
# The log is runs/detached/log. A lock is held as long as the verb runs, also over a reboot the truth.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -gt 0 ] || usage
here=runs/detached
mkdir -p $here
touch $here/log

running() {
  ! flock --nonblock $here/lock true
}

stop() {
  local second
  if ! running; then
    return
  fi
  kill -TERM "$(cat $here/verb)" 2>/dev/null || true
  for ((second = 0; second < ${GRACE:-60}; second++)); do
    running || return 0
    sleep 1
  done
  kill -KILL -- "-$(cat $here/group)" 2>/dev/null || true
}

case $1 in
  start)
    shift
    stop
    exec 9>$here/lock
    flock 9
    rm -f $here/code
    setsid "$0" live "$@" </dev/null >>$here/log 2>&1 &
    echo $! >$here/group
    ;;
  live) # What `start` leaves behind, with the lock.
    shift
    launch/host.sh "$@" 9>&- &
    echo $! >$here/verb
    code=0
    wait $! || code=$?
    echo $code >$here/code
    # Whatever the verb left behind, for example a retriever's worker.
    trap '' TERM
    kill -TERM 0
    ;;
  wait)
    tail --pid=$$ --lines=50 --follow $here/log | sed -u "s/^/[$(hostname)] /" &
    flock $here/lock true
    ;;
  code) cat $here/code 2>/dev/null || echo none ;;
  running) running ;;
  stop) stop ;;
  *) usage ;;
esac
