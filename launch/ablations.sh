#!/usr/bin/env bash
# The controls beside a finished quick start: trains and tests each on that run's world, indexes and
# warm start, and draws all of them as bars. RUN names the quick start, SIZE its size, OUT the folder
# of the controls and PICTURE the file to draw. What is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${RUN:-runs/quickstart}
size=${SIZE:-default}
out=${OUT:-runs/ablations}
if [ ! -f "$run/eval_after/summary.json" ]; then
  echo "$0: $run holds no finished quick start; run launch/quickstart.sh first" >&2
  exit 2
fi
launch/install.sh
. launch/verb.sh

# Its seed, and the steps of the warm start that take as long as the training took.
read -r seed steps < <(.venv/bin/python - "$run" <<'PYTHON'
import collections, json, sys
run = sys.argv[1]
seconds = collections.Counter()
for line in map(json.loads, open(f'{run}/usage.jsonl')):
  seconds[line['verb']] += line['seconds']
done = len(json.load(open(f'{run}/warmstart/losses.json')))
seed = json.load(open(f'{run}/config.json'))['seed']
print(seed, round(done * seconds['train'] / seconds['warmstart']))
PYTHON
)

# against NAME POLICY VERB [flags]: makes the policy OUT/NAME/POLICY and tests it.
against() {
  local to=$out/$1 policy=$2 config
  if [ -f "$to/eval_after/summary.json" ]; then
    return
  fi
  mkdir -p "$to"
  export JAXSEARCH_USAGE=$to/usage.jsonl
  config=(--config="configs/ablations/$1.py:$size,$run,$to" --config.seed="$seed")
  verb "$3" "${config[@]}" "${@:4}"
  verb eval "${config[@]}" --policy="$to/$policy" --questions="$run/world/test/questions.jsonl" \
    --index="$run/index/test" --out="$to/eval_after"
  unset JAXSEARCH_USAGE
}

compared=full_run=$run
for name in no_retriever random_documents shuffled_rewards no_observation_mask continued_warmstart; do
  if [ $name = continued_warmstart ]; then
    against $name warmstart/policy warmstart --config.warmstart.steps="$steps"
  else
    against $name policy train
  fi
  compared+=,$name=$out/$name
done
verb report --compare="$compared" --kind=bars --out="${PICTURE:-docs/ablations.png}"
