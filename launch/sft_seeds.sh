#!/usr/bin/env bash
# Fine-tunes SALT_DS and BASELINE on questions: launch/sft_seeds.sh [SEED ...]
#
# Each run starts from the student of the same seed, so run launch/seeds.sh first. About
# five minutes per seed on two cores, for both embedded sets of questions.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRA=eval,plots
source launch/env.sh
seeds=("$@")
[[ ${#seeds[@]} -gt 0 ]] || seeds=(0 1 2)

pairs=()
for seed in "${seeds[@]}"; do
  for start in baseline salt_ds; do
    export=runs/seeds/exports/$start-$seed
    python -m salt_jax.main export --gin_file=gin/tiny_$start.gin \
      --workdir=runs/seeds/$start-"$seed" --gin.SEED="$seed" --output="$export"
    for set in factbook mathematics; do
      run=(--gin_file=gin/sft_$set.gin --workdir="runs/sft/$set-$start-$seed"
        --gin.INITIAL_EXPORT="'$export'" --gin.SEED="$seed")
      python -m salt_jax.main train "${run[@]}"
      python -m salt_jax.main evaluate "${run[@]}"
    done
  done
  for set in factbook mathematics; do
    pairs+=(--baseline="runs/sft/$set-baseline-$seed")
    pairs+=(--salt="runs/sft/$set-salt_ds-$seed")
  done
done
python -m salt_jax.main compare "${pairs[@]}"
