#!/usr/bin/env bash
# Runs the laboratories behind docs/findings.md, puts their tables there, and those of
# gin/lab_overview.gin with its picture into the README: launch/findings.sh [NAME ...]
#
#   launch/findings.sh                  all of gin/lab_NAME.gin below, one after another
#   launch/findings.sh dials teachers   these
#   launch/findings.sh --report         nothing is run: the tables of what is complete
#
# Hours to days: runs of the demo's size take near two minutes each on one core, those of
# `longer` four times that, those of `larger` 25 to 45. It may be stopped at any time:
# the same command goes on, and several may run beside one another. Runs and pages are in
# runs/findings/.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRA=eval,plots
source launch/env.sh
report=()
[[ ${1:-} != --report ]] || { report=(--report); shift; }
names=("$@")
[[ ${#names[@]} -gt 0 ]] || names=(dials teachers starts transitions selection longer larger)
failed=()
for name in "${names[@]}"; do
  python -m salt_jax.main lab --gin_file="gin/lab_$name.gin" --into=docs/findings.md \
    "${report[@]}" || failed+=("$name")
done
python -m salt_jax.main lab --gin_file=gin/lab_overview.gin --report --into=README.md \
  --brief
picture=runs/findings/demo/reports/overview/loss.svg
[[ ! -f $picture ]] || cp "$picture" docs/findings_loss.svg # None before a run is complete.
[[ ${#failed[@]} -eq 0 ]] || { echo "Not complete: ${failed[*]}" >&2; exit 1; }
