#!/usr/bin/env bash
# Trains SALT_DS and BASELINE with several seeds: launch/seeds.sh [SEED ...]
#
# The seed sets initial parameters and data order; teacher and scores are the demo's, so
# run launch/demo.sh first. About eight minutes per seed on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRA=eval,plots
source launch/env.sh
seeds=("$@")
[[ ${#seeds[@]} -gt 0 ]] || seeds=(0 1 2)

baselines=() salts=()
for seed in "${seeds[@]}"; do
  for arm in baseline salt_ds; do
    run=(--gin_file=gin/tiny_$arm.gin --workdir=runs/seeds/$arm-$seed --gin.SEED="$seed")
    python -m salt_jax.main train "${run[@]}"
    python -m salt_jax.main evaluate "${run[@]}"
  done
  baselines+=(--baseline="runs/seeds/baseline-$seed")
  salts+=(--salt="runs/seeds/salt_ds-$seed")
done
python -m salt_jax.main compare "${baselines[@]}" "${salts[@]}"
