#!/usr/bin/env bash
# Sets up, then prints the measured speeds as ratios, one script at a time.
#
# About eight minutes on two cores; the dense loss alone holds 13 GiB. For options, run
# a script by itself: python tests/benchmarks/loss.py --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

for script in tests/benchmarks/*.py; do
  echo "== $script"
  python "$script"
done
