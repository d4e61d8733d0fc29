#!/usr/bin/env bash
# Sets up, then prints the measured speeds as ratios, one script at a time.
#
# About twenty minutes on two cores; the dense loss alone holds 13 GiB. For options, run
# a script by itself: python tests/benchmarks/loss.py --help
#
# With --peers: only our stage-one step beside the same distillation in PyTorch and in
# Tunix, which are installed into .venv-peers (2.5 GB), once. Options go on to
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
