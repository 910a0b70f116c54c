#!/usr/bin/env bash
# ZeroSearch with a simulator of our own beside a finished quick start: collects records of real
# searches, half of them noise, trains a simulator on them, trains the policy on what that writes, and
# tests it on the real index. RUN is the quick start, SIZE its size, OUT the folder of this run. What
# is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/own_simulator}
. launch/against.sh
mkdir -p "$out"
export JAXSEARCH_USAGE=$out/usage.jsonl

config=(--config="configs/own_simulator.py:$size,$run,$out" --config.seed="$seed")
if [ ! -f "$out/records.jsonl" ]; then
  noisy=(--config.retrieval.backend=noisy)
  noisy+=(--config.retrieval.noise_start=0.5 --config.retrieval.noise_end=0.5)
  verb collect "${config[@]}" "${noisy[@]}" --out="$out/records.jsonl" --samples=2
fi
if [ ! -d "$out/simulator/policy" ]; then
  verb warmstart "${config[@]}" --task=simulator
fi
if [ ! -f "$out/eval_after/summary.json" ]; then
  verb train "${config[@]}"
  tested "$out" policy "${config[@]}"
fi
