#!/usr/bin/env bash
# Fine-tunes SALT_DS and BASELINE of the demo on questions: launch/sft_seeds.sh [SEED ...]
#
# Both embedded sets, several seeds: the order of the questions differs, the start is
# the demo's. Run launch/demo.sh first. About five minutes a seed on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRA=eval
source launch/env.sh
seeds=("$@")
[[ ${#seeds[@]} -gt 0 ]] || seeds=(0 1 2)

pairs=()
for set in factbook mathematics; do
  for seed in "${seeds[@]}"; do
    for start in baseline salt_ds; do
      run=(--gin_file=gin/sft_$set.gin --workdir="runs/sft/$set-$start-$seed"
        --gin.INITIAL_EXPORT="'runs/demo/exports/$start'" --gin.SEED="$seed")
      python -m salt_jax.main train "${run[@]}"
      python -m salt_jax.main evaluate "${run[@]}"
    done
    pairs+=(--baseline="runs/sft/$set-baseline-$seed")
    pairs+=(--salt="runs/sft/$set-salt_ds-$seed")
  done
done
python -m salt_jax.main compare "${pairs[@]}"
