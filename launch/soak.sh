#!/usr/bin/env bash
# Runs the long campaigns of faults: launch/soak.sh [N [NAME ...]]
#
# Each tests/soak/NAME.py takes --count=N and --seed, makes N faults of each of its kinds
# (damaged inputs, flipped bits, killed processes), prints a table, and exits with another
# code than 0 if one of them was not met as declared. The suite runs a share of the same.
#
#   launch/soak.sh                   200 of each, as in the suite
#   launch/soak.sh 10000 inputs      10,000 of each reader, in tests/soak/inputs.py alone
#   SEED=7 launch/soak.sh 1000       other faults than those of seed 0
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" PYTHONPATH=.
count=${1:-200}
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "N is a number, not '$count'." >&2; exit 2; }

scripts=()
for name in "${@:2}"; do
  scripts+=("tests/soak/$name.py")
done
# Beside the campaigns there are modules that they share.
[[ ${#scripts[@]} -gt 0 ]] || mapfile -t scripts < <(grep -l '"--count"' tests/soak/*.py)

failed=()
for script in "${scripts[@]}"; do
  echo "== $script --count=$count --seed=${SEED:-0}"
  python "$script" --count="$count" --seed="${SEED:-0}" || failed+=("$script")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "Failed: ${failed[*]}" >&2; exit 1; }
