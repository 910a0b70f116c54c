#!/usr/bin/env bash
# Runs one verb on every host of a TPU slice of GKE, as a JobSet that the cluster watches:
#   launch/gke.sh [--dry_run] NAME VERB [flags]
# Fills launch/gke_jobset.yaml and creates it with kubectl; --dry_run prints it. IMAGE is a container
# image (launch/Dockerfile), ACCELERATOR and TOPOLOGY what the node pool has (tpu-v5-lite-podslice and
# 4x4), CHIPS those of one host, BUCKET what is mounted at /bucket, by the right of SERVICE_ACCOUNT.
# SPOT=1 takes nodes that may be pre-empted. ATTEMPTS and XLA_SET as elsewhere. run_dir and every file
# in the configuration are below /bucket or in the image.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -ge 2 ] || usage
name=$1
shift
for needed in IMAGE ACCELERATOR TOPOLOGY BUCKET; do
  [ -n "${!needed:-}" ] || mend "$needed is not set; this script's first lines say what it is."
done
chips=${CHIPS:-4}
all_chips=$((${TOPOLOGY//x/*}))
[ $((all_chips % chips)) -eq 0 ] ||
  mend "TOPOLOGY $TOPOLOGY has $all_chips chips, which $chips a host (CHIPS) do not divide."

arguments=
for word in "$@"; do # As JSON, which is YAML.
  word=${word//\\/\\\\}
  arguments+=", \"${word//\"/\\\"}\""
done
yaml=$(<launch/gke_jobset.yaml)
fill() {
  yaml=${yaml//"\${$1}"/"$2"}
}
fill NAME "$name"
fill RESTARTS "$((ATTEMPTS - 1))"
fill HOSTS "$((all_chips / chips))"
fill CHIPS "$chips"
fill MEND "$MEND"
fill SERVICE_ACCOUNT "${SERVICE_ACCOUNT:-default}"
fill ACCELERATOR "$ACCELERATOR"
fill TOPOLOGY "$TOPOLOGY"
fill IMAGE "$IMAGE"
fill BUCKET "$BUCKET"
fill XLA_SET "${XLA_SET:-}"
fill ARGUMENTS "[${arguments#, }]"
if [ -z "${SPOT:-}" ]; then
  yaml=$(grep -v gke-spot <<<"$yaml")
fi

if [ -n "$dry_run" ]; then
  printf '%s\n' "$yaml"
else
  kubectl create -f - <<<"$yaml"
fi
