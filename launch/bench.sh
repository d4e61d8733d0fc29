#!/usr/bin/env bash
# Sets up, then prints the measured speeds as ratios, one script at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

for script in tests/benchmarks/*.py; do
  echo "== $script"
  python "$script" "$@"
done
