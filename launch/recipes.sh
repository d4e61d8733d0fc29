#!/usr/bin/env bash
# Runs the laboratories behind docs/recipes.md and puts their tables and curves there:
#
#   launch/recipes.sh [--report]   --report: nothing is run; what is complete is shown
#
# Each arm takes one to ten minutes on one core. It may be stopped at any time: the same
# command goes on. Runs and pages are in runs/recipes/, a folder for each shape.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRA=eval,plots
case ${1:-} in
  "" | --report) ;;
  *) echo "Unknown option $1; there is --report." >&2; exit 2 ;;
esac
source launch/env.sh
if [[ ${1:-} != --report ]]; then
  for gin_file in gin/lab_recipes*.gin; do
    python -m salt_jax.main lab --gin_file="$gin_file"
  done
  python -m salt_jax.main lab --gin_file=gin/lab_recipes.gin \
    --gin.lab.Lab.seeds='(0, 1, 2)' --only='adamw_4e-3/*' \
    --only='rel_3e-2_by_depth_clip/*' --only='rel_9e-2_by_depth_clip/*'
fi
python tests/benchmarks/recipes.py
