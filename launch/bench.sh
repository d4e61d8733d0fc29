#!/usr/bin/env bash
# Sets up, then runs the benchmarks one by one; results are ratios of speeds.
#
# About twenty minutes on two cores. The dense loss needs 13 GiB of memory. Each script
# has options: python tests/benchmarks/loss.py --help
#
# --peers compares the stage-one step with the same distillation in PyTorch and in Tunix,
# which are installed once into .venv-peers (2.5 GB). Further options are passed to
# tests/benchmarks/peers/compare.py.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

if [[ ${1:-} == --peers ]]; then
  requirements=tests/benchmarks/peers/requirements.txt
  wanted=$({ cat "$requirements" && pwd; } | sha256sum)
  if [[ $(cat .venv-peers/installed 2>/dev/null) != "$wanted" ]]; then
    echo "Installing into .venv-peers: a few minutes, once."
    "$VENV/bin/python" -m venv --clear .venv-peers
    .venv-peers/bin/python -m pip install -qq -r "$requirements"
    echo "$wanted" > .venv-peers/installed
  fi
  exec python tests/benchmarks/peers/compare.py "${@:2}"
fi

for script in tests/benchmarks/*.py; do
  echo "== $script"
  if [[ $script == */teacher_dtype.py && ! -d runs/demo/exports/slm ]]; then
    echo "Needs the small model of the demo: run launch/demo.sh first."
    continue
  fi
  python "$script"
done
