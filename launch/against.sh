# Sourced by the scripts that train other configurations beside a finished quick start: on its world,
# its indexes and its warm start. SIZE is the size of the quick start. What is finished is not done
# again.

size=${SIZE:-default}
installed=
. launch/verb.sh

# beside RUN: the quick start that is meant from now on.
beside() {
  run=$1
  if [ ! -f "$run/eval_after/summary.json" ]; then
    echo "$0: $run holds no finished quick start; run launch/quickstart.sh first" >&2
    exit 2
  fi
  if [ -z "$installed" ]; then
    launch/install.sh
    installed=yes
  fi
  seed=$(.venv/bin/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["seed"])' \
    "$run/config.json")
}

# against FOLDER NAME OUT POLICY VERB [flags]: makes the policy OUT/POLICY by configs/FOLDER/NAME.py
# and tests it.
against() {
  local out=$3 config
  if [ -f "$out/eval_after/summary.json" ]; then
    return
  fi
  mkdir -p "$out"
  export JAXSEARCH_USAGE=$out/usage.jsonl
  config=(--config="configs/$1/$2.py:$size,$run" --config.seed="$seed" --config.run_dir="$out")
  verb "$5" "${config[@]}" "${@:6}"
  verb eval "${config[@]}" --policy="$out/$4" --questions="$run/world/test/questions.jsonl" \
    --index="$run/index/test" --out="$out/eval_after"
  unset JAXSEARCH_USAGE
}
