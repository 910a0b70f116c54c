#!/usr/bin/env bash
# Prints where an index lies on this host: launch/stage.sh [--dry_run] PLACE
# A bucket, gs://… or s3://…, is copied below STAGE_DIR once: processes that ask at the same time wait
# for the first, and a copy that was interrupted is completed, never used. Copies are kept and not
# compared again: an index that changed needs another name. Any other PLACE is printed as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -eq 1 ] || usage

place=${1%/}
case $place in
  gs://*)
    copy=(gcloud storage rsync)
    how=(--recursive --delete-unmatched-destination-objects)
    ;;
  s3://*)
    copy=(aws s3 sync)
    how=(--delete)
    ;;
  *)
    printf '%s\n' "$1"
    exit
    ;;
esac
stage=${STAGE_DIR:-${TMPDIR:-/tmp}/jaxsearch-$(id -u)}
digest=$(printf '%s' "$place" | sha256sum)
folder=$stage/${place##*/}-${digest:0:12}

if [ -z "$dry_run" ]; then
  command -v "${copy[0]}" >/dev/null || mend "$place takes ${copy[0]} on this host; or mount the bucket."
  mkdir -p "$stage"
  exec 9>"$folder.lock"
  flock 9
fi
if [ ! -d "$folder" ]; then
  {
    step mkdir -p "$folder.partial"
    step "${copy[@]}" "$place" "$folder.partial" "${how[@]}"
    if [ -z "$dry_run" ] && rmdir "$folder.partial" 2>/dev/null; then
      mend "$place holds nothing; name the folder that jaxsearch index wrote."
    fi
    # A host that goes down now must not come up with the name of a whole copy and half of its bytes.
    step sync --file-system "$folder.partial"
    step mv "$folder.partial" "$folder"
  } >&2
fi
printf '%s\n' "$folder"
