#!/usr/bin/env bash
# From nothing to a language model that has learnt to search, on two CPU cores: installs, then runs
# every verb, each of which also works alone. SEED and SIZE (default or ci) choose another run,
# RUN another folder; a run that is already there is moved to RUN.previous.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${SEED:-0}
size=${SIZE:-default}
run=${RUN:-runs/quickstart}

launch/install.sh
. launch/verb.sh
if [ -f "$run/usage.jsonl" ]; then
  rm -rf "$run.previous"
  mv "$run" "$run.previous"
fi
mkdir -p "$run"
export JAXSEARCH_USAGE=$run/usage.jsonl

world=$run/world
verb world --out="$world" --seed="$seed" --size="$size"
for split in train dev test; do
  verb index --corpus="$world/$split/corpus.jsonl" --out="$run/index/$split"
done

config=(--config="configs/quickstart.py:$size,$run" --config.seed="$seed")
test=(--questions="$world/test/questions.jsonl" --index="$run/index/test")
verb warmstart "${config[@]}"
verb eval "${config[@]}" --policy="$run/warmstart/policy" "${test[@]}" --out="$run/eval_before"
verb train "${config[@]}"
verb eval "${config[@]}" --policy="$run/policy" "${test[@]}" --out="$run/eval_after"
verb report --run="$run"
