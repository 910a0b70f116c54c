#!/usr/bin/env bash
# The controls beside a finished quick start: trains and tests each on that run's world, indexes and
# warm start, and draws all of them as bars. RUN names the quick start, SIZE its size, OUT the folder
# of the controls and PICTURE the file to draw. What is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/ablations}
. launch/against.sh
beside "${RUN:-runs/quickstart}"

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
  if [ $name = continued_warmstart ]; then
    against ablations $name "$out/$name" warmstart/policy warmstart --config.warmstart.steps="$steps"
  else
    against ablations $name "$out/$name" policy train
  fi
  compared+=,$name=$out/$name
done
verb report --compare="$compared" --kind=bars --out="${PICTURE:-docs/ablations.png}"
