# Sourced by the other scripts: .venv, made once and again when setup.py changes.
#
# EXTRA=eval is enough to train and to evaluate; by default it is dev, which has the
# tools of the tests too: PyTorch, Apache Beam, the TPUs' compiler.
# PYTHON=/path/to/python names the interpreter; by default the first that fits.

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    "$python" -c 'import sys, ensurepip
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null && command -v "$python" && return
  done
  echo "Found no Python 3.11 to 3.13 with venv and ensurepip (tried" \
    "${PYTHON:-python3, python3.13, python3.12, python3.11}): install one, on Debian" \
    "with 'apt install python3-venv', or name one with PYTHON=/path/to/python." >&2
  return 2
}

# The folder counts too: an editable install knows where it was made.
wanted=$({ cat setup.py && pwd; } | sha256sum)
installed=$(cat .venv/installed 2>/dev/null || true)
if [[ $installed != "dev $wanted" && $installed != "${EXTRA:-dev} $wanted" ]]; then
  echo "Installing into .venv: a few minutes, and only when setup.py changes."
  python=$(find_python) || exit
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install -qq --use-pep517 --editable ".[${EXTRA:-dev}]"
  echo "${EXTRA:-dev} $wanted" > .venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/xla}"
# JAX with the TPUs' compiler, which tests use, looks for a TPU and is loud without one.
if ! compgen -G '/dev/accel*' > /dev/null && ! compgen -G '/dev/vfio/[0-9]*' > /dev/null &&
  ! compgen -G '/dev/nvidia*' > /dev/null && [[ ! -e /dev/kfd ]]; then
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
fi
