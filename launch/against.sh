# shellcheck shell=bash
# Sourced by the scripts that train something beside a finished quick start: on its world, its indexes
# and its warm start. RUN names the quick start and SIZE its size; sets run, size and seed. What is
# finished is not done again.
# shellcheck disable=SC2034  # What it sets is read by the scripts.

run=${RUN:-runs/quickstart}
size=${SIZE:-default}
if [ ! -d "$run/warmstart/policy" ]; then
  echo "$0: $run holds no quick start; run launch/quickstart.sh first" >&2
  exit 2
fi
launch/install.sh
. launch/verb.sh
seed=$(.venv/bin/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["seed"])' \
  "$run/world/world.json")

# tested OUT POLICY --config=… [flags]: tests OUT/POLICY on the quick start's test questions.
tested() {
  verb eval "${@:3}" --policy="$1/$2" --questions="$run/world/test/questions.jsonl" \
    --index="$run/index/test" --out="$1/eval_after"
}
