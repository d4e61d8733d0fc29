#!/usr/bin/env bash
# Sets up, then runs the benchmarks one by one; results are ratios of speeds.
#
# About twenty minutes on two cores. The dense loss needs 13 GiB of memory. Each script
# has options: python tests/benchmarks/loss.py --help
#
# --peers compares a training step with the same step in PyTorch, Tunix and MaxText,
# which are installed once into .venv-peers (5.7 GB) and .venv-maxtext (2.6 GB). MaxText
# needs Python 3.12 or later, at MAXTEXT_PYTHON, and is left out without it. Further
# options are passed to tests/benchmarks/peers/compare.py.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

# Creates the environment $1 with Python $2, once for each state of its requirements $3.
install_peers() {
  local folder=$1 python=$2 requirements=$3 wanted
  wanted=$({ cat "$requirements" && pwd; } | sha256sum)
  [[ $(cat "$folder/installed" 2>/dev/null) != "$wanted" ]] || return 0
  echo "Installing into $folder: a few minutes, once."
  "$python" -m venv --clear "$folder"
  "$folder/bin/python" -m pip install -qq uv
  # Tunix allows no safetensors that MaxText does; neither uses it here.
  "$folder/bin/python" -m uv pip install -q --python "$folder/bin/python" \
    -r "$requirements" --override <(echo 'safetensors')
  echo "$wanted" > "$folder/installed"
}

if [[ ${1:-} == --peers ]]; then
  folder=tests/benchmarks/peers
  install_peers .venv-peers "$VENV/bin/python" "$folder/requirements.txt"
  maxtext_python=${MAXTEXT_PYTHON:-python3.12}
  if "$maxtext_python" --version > /dev/null 2>&1; then
    install_peers .venv-maxtext "$maxtext_python" "$folder/requirements_maxtext.txt"
  else
    echo "No $maxtext_python, which MaxText needs: set MAXTEXT_PYTHON."
  fi
  exec python "$folder/compare.py" "${@:2}"
fi

for script in tests/benchmarks/*.py; do
  echo "== $script"
  if [[ $script == */teacher_dtype.py && ! -d runs/demo/exports/slm ]]; then
    echo "Needs the small model of the demo: run launch/demo.sh first."
    continue
  fi
  python "$script"
done
