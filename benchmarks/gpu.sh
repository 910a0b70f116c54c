#!/usr/bin/env bash
# The engine on one large GPU, in less than nine minutes: steps of decode against the memory's
# bandwidth, extension against the matrix rate, the trace of Search-R1, transformers beside it.
# Not run yet: there was no GPU at hand. Figures go to benchmarks/gpu/*.json.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
mkdir -p benchmarks/gpu
common=(--dtype=bfloat16 --nodeterministic --overlap --repeats=1 --modes=resume --trajectories=64)
common+=(--decode_steps=64 --extend_rows=8 --extend_tokens=64)

for model in qwen2p5_1p5b qwen2p5_7b; do
  for slots in 64 256; do
    timeout 100 python -m jaxsearch bench rollout --model=$model --slots=$slots "${common[@]}" \
      --step_context=1000 --json=benchmarks/gpu/$model-$slots.json || echo "$model $slots failed"
  done
done
timeout 120 python -m jaxsearch bench rollout --model=qwen2p5_3b --slots=128 "${common[@]}" \
  --latency_s=0.2 --json=benchmarks/gpu/qwen2p5_3b.json || echo 'the trace failed'
