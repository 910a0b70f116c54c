#!/usr/bin/env bash
# Other methods beside finished quick starts: trains and tests the recipes that are named (default:
# all of configs/recipes/), on each of RUNS, and writes a table of them. SIZE is the size of the runs,
# OUT the folder of the recipes and TABLE the file. What is finished is not done again, and the table
# is written anew after every recipe.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/recipes}
table=${TABLE:-$out/RECIPES.md}
. launch/against.sh

if [ $# -eq 0 ]; then
  set -- $(cd configs/recipes && ls -- *.py | sed 's/\.py$//')
fi
compared=
for run in ${RUNS:-runs/quickstart}; do
  beside "$run"
  compared+=,plain=$run
done
for name in "$@"; do
  for run in ${RUNS:-runs/quickstart}; do
    beside "$run"
    against recipes "$name" "$out/$name/$(basename "$run")" policy train
    compared+=,$name=$out/$name/$(basename "$run")
  done
  verb report --compare="${compared#,}" --kind=table --out="$table"
done
