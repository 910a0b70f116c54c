#!/usr/bin/env bash
# The controls beside a finished quick start: trains and tests each on that run's world, indexes and
# warm start, and draws all of them as bars. RUN names the quick start, SIZE its size, OUT the folder
# of the controls and PICTURE the file to draw. What is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/ablations}
. launch/against.sh

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

compared=full_run=$run
for name in no_retriever random_documents shuffled_rewards no_observation_mask continued_warmstart; do
  to=$out/$name
  compared+=,$name=$to
  if [ -f "$to/eval_after/summary.json" ]; then
    continue
  fi
  mkdir -p "$to"
  config=(--config="configs/ablations/$name.py:$size,$run,$to" --config.seed="$seed")
  export JAXSEARCH_USAGE=$to/usage.jsonl
  if [ $name = continued_warmstart ]; then
    verb warmstart "${config[@]}" --config.warmstart.steps="$steps"
    tested "$to" warmstart/policy "${config[@]}"
  else
    verb train "${config[@]}"
    tested "$to" policy "${config[@]}"
  fi
  unset JAXSEARCH_USAGE
done
verb report --compare="$compared" --kind=bars --out="${PICTURE:-docs/ablations.png}"
