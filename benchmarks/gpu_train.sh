#!/usr/bin/env bash
# Training on one large GPU, in less than nine minutes: ten steps of the loop (weights over, rollout,
# update) with the architectures of Qwen2.5 1.5B and 7B and random weights. All of 1.5B is trained, of 7B
# adapters: an update of all of it takes 150 GB. Not run yet: there was no GPU at hand. Figures go to OUT, benchmarks/gpu by default. Needs `pip install -e ".[cuda]"`. SIZE=tiny goes
# through everything on any machine.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
python=${PYTHON:-python}
out=${OUT:-benchmarks/gpu}
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.95
mkdir -p "$out"

run() { # seconds that it may take, model, further flags
  local seconds=$1 model=$2
  shift 2
  echo "== $model"
  timeout "$seconds" "$python" -m jaxsearch bench step --model="$model" --json="$out/step-$model.json" "$@" ||
    echo "$model failed or took over $seconds s"
}

if [[ ${SIZE:-} == tiny ]]; then
  run 120 tiny --steps=3 --rows=2 --length=128 --trajectories=2 --slots=2
  exit
fi
# The limits add up to 520 seconds.
large=(--dtype=bfloat16 --attention=cudnn --cache=cudnn --overlap --length=4096 --extend_rows=8
  --extend_tokens=64 --tokens_per_microbatch=16384)
run 220 qwen2p5_1p5b "${large[@]}" --rows=16 --trajectories=64 --slots=64
run 300 qwen2p5_7b "${large[@]}" --rows=8 --trajectories=32 --slots=32 --lora_rank=16 --steps=5
