# shellcheck shell=bash
# Sourced first by the launchers, which run in the repository's folder: a first argument --dry_run, what
# a script says of itself, and what the exit codes of a run ask for.

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=$1
  shift
fi

# What the user must mend before the same command makes sense, as `jaxsearch` says it.
MEND=2
# A run is started this many times at most; after the loss of a host it goes on from its checkpoint.
ATTEMPTS=${ATTEMPTS:-20}

# mend MESSAGE: ends the script.
mend() {
  printf '%s: %s\n' "$0" "$1" >&2
  exit $MEND
}

# Ends the script with the comment that it begins with.
usage() {
  echo "usage of $0:" >&2
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit $MEND
}

# quoted WORDS...: as one line that a shell reads as these words.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# step COMMAND...: prints a command, and runs it unless this is a dry run.
step() {
  if [ -n "$dry_run" ]; then
    quoted "$@"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# next_step CODES...: the exit codes of all processes of a run -> done, mend or again. One process that
# knows what is wrong counts more than those that only lost it. 75 is the loss of a host or a notice
# of pre-emption; what else went wrong may go right the next time.
next_step() {
  local code word='done'
  [ $# -gt 0 ] || word=again
  for code in "$@"; do
    case $code in
      0) ;;
      "$MEND")
        echo mend
        return
        ;;
      *) word=again ;;
    esac
  done
  echo "$word"
}
