#!/usr/bin/env bash
# The quick start with three seeds, one after the other, and their curves in one picture. SEEDS, SIZE,
# OUT (folder of the runs) and PICTURE (file to draw) choose others. What is finished is not done
# again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/seeds}
picture=${PICTURE:-docs/seeds.png}

compared=
for seed in ${SEEDS:-0 1 2}; do
  if [ ! -f "$out/$seed/summary.json" ]; then
    SEED=$seed RUN=$out/$seed launch/quickstart.sh
  fi
  compared+=,seed_$seed=$out/$seed
done
. launch/verb.sh
verb report --compare="${compared#,}" --kind=curves --out="$picture"
