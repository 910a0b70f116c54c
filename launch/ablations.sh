#!/usr/bin/env bash
# The controls beside a finished quick start: trains and tests each on that run's world, indexes and
# warm start, and draws all of them as bars. RUN names the quick start, SIZE its size, OUT the folder
# of the controls and PICTURE the file to draw. What is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${RUN:-runs/quickstart}
size=${SIZE:-default}
out=${OUT:-runs/ablations}
picture=${PICTURE:-docs/ablations.png}
if [ ! -f "$run/eval_after/summary.json" ]; then
  echo "launch/ablations.sh: $run holds no finished quick start; run launch/quickstart.sh first" >&2
  exit 2
fi

launch/install.sh
. launch/verb.sh
seed=$(.venv/bin/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["seed"])' \
  "$run/config.json")
# Steps of the warm start that take as long as the training took.
steps=$(.venv/bin/python - "$run" <<'PYTHON'
import collections, json, sys
seconds = collections.Counter()
for line in map(json.loads, open(f'{sys.argv[1]}/usage.jsonl')):
  seconds[line['verb']] += line['seconds']
done = len(json.load(open(f'{sys.argv[1]}/warmstart/losses.json')))
print(round(done * seconds['train'] / seconds['warmstart']))
PYTHON
)

# ablation NAME POLICY VERB [flags]: makes the policy OUT/NAME/POLICY with the verb and tests it.
compared=full_run=$run
ablation() {
  local name=$1 policy=$out/$1/$2 config
  shift 2
  compared+=,$name=$out/$name
  if [ -f "$out/$name/eval_after/summary.json" ]; then
    return
  fi
  mkdir -p "$out/$name"
  export JAXSEARCH_USAGE=$out/$name/usage.jsonl
  config=(--config="configs/ablations/$name.py:$size,$run" --config.seed="$seed"
    --config.run_dir="$out/$name")
  verb "$1" "${config[@]}" "${@:2}"
  verb eval "${config[@]}" --policy="$policy" --questions="$run/world/test/questions.jsonl" \
    --index="$run/index/test" --out="$out/$name/eval_after"
}

for name in no_retriever random_documents shuffled_rewards no_observation_mask; do
  ablation "$name" policy train
done
ablation continued_warmstart warmstart/policy warmstart --config.warmstart.steps="$steps"

unset JAXSEARCH_USAGE
verb report --compare="$compared" --kind=bars --out="$picture"
