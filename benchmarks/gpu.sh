#!/usr/bin/env bash
# The engine on one large GPU, in less than nine minutes: steps of decode against the memory's
# bandwidth, the trace of Search-R1, and transformers' `generate` on the same trace beside it. Not run
# yet: there was no GPU at hand. Figures go to OUT, benchmarks/gpu by default; the last line sums up.
# Needs `pip install -e ".[cuda,peers]"`. SIZE=tiny goes through everything on any machine.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
python=${PYTHON:-python}
out=${OUT:-benchmarks/gpu}

if [[ ${SIZE:-} == tiny ]]; then
  models=(tiny) slots=(2) trace_model=tiny trace_slots=2 peer_model=tiny peer_rows=2 trajectories=2
  steps=30
else
  models=(qwen2p5_1p5b qwen2p5_7b) slots=(64 256) trace_model=qwen2p5_3b trace_slots=128
  peer_model=qwen2p5_1p5b peer_rows=64 trajectories=64 steps=200,1000,2000
fi
mkdir -p "$out"
rm -f "$out"/{steps,trace,peers}-*.json # Or the summary would speak of an earlier run.

run() { # seconds that it may take, name, command
  local seconds=$1 name=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" --json="$out/$name.json" || echo "$name failed or took over $seconds s"
}

# The limits add up to 530 seconds: 4 * 75 + 80 + 150.
bench=("$python" -m jaxsearch bench rollout --dtype=bfloat16 --nodeterministic --overlap --cache=cudnn
  --repeats=1 --modes=resume "--trajectories=$trajectories" --extend_rows=8 --extend_tokens=64)
for model in "${models[@]}"; do
  for rows in "${slots[@]}"; do
    # Without the sync: it needs room for the learner's float32 weights beside the cache.
    run 75 "steps-$model-$rows" "${bench[@]}" "--model=$model" "--slots=$rows" \
      "--step_context=$steps" --nosync
  done
done
run 80 "trace-$trace_model" "${bench[@]}" "--model=$trace_model" "--slots=$trace_slots"
# JAX would take most of the memory for our engine alone.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.45
run 150 "peers-$peer_model" "$python" benchmarks/peers.py --engines=ours,transformers \
  --dtype=bfloat16 --nosweep --repeats=1 "--model=$peer_model" "--rows=$peer_rows" \
  "--trajectories=$trajectories"

"$python" - "$out" <<'END'
import json, pathlib, sys

said = []
for path in sorted(pathlib.Path(sys.argv[1]).glob('*-*.json')):
  found = json.loads(path.read_text())
  if 'engines' in found:
    speeds = [f'{n} {e["trajectories_per_s"]:.3g}' for n, e in found['engines'].items()]
    said.append(f'{path.stem} {", ".join(speeds)} trajectories/s')
    continue
  steps = [f'{s["context"]}: {s["seconds"] / s["floor"]:.2f} x' for s in found['steps']]
  speed = f'{found["modes"]["resume"]["trajectories_per_s"]:.3g} trajectories/s'
  said.append(f'{path.stem} {speed}' + (f', steps of floor {", ".join(steps)}' if steps else ''))
print('gpu.sh: ' + ('; '.join(said) or 'nothing was measured'))
END
