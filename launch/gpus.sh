#!/usr/bin/env bash
# Runs one verb on the GPUs of this machine, all of them in one process:
#   launch/gpus.sh [--dry_run] VERB [flags]
# GPUS=0,1 takes only those. XLA_SET and an index in a bucket as in launch/host.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh
[ $# -gt 0 ] || usage
if [ -z "$dry_run" ] && ! nvidia-smi --list-gpus; then
  mend 'nvidia-smi finds no GPU on this machine; launch/local_processes.sh is for CPUs.'
fi
# Named, so that a broken driver is an error and not a run on the CPU.
variables=(JAX_PLATFORMS="cuda,cpu" ${GPUS:+"CUDA_VISIBLE_DEVICES=$GPUS"})
step exec env "${variables[@]}" launch/host.sh "$@"
