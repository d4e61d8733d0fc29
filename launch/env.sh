# Creates the virtual environment, and again when setup.py changes. For `source`.
#
# Variables, all optional:
#   PYTHON     interpreter: a path, or a version such as 3.13, found on PATH or in pyenv.
#              Default: the first Python 3.11 to 3.13 found.
#   VENV       directory of the environment. Default: .venv
#   EXTRA      extras of setup.py to install. Default: dev, which the tests need.
#   INSTALLER  uv (default, fetched from PyPI if it is not on PATH) or pip.
VENV=${VENV:-.venv}

find_python() {
  local name python
  for name in ${PYTHON:-python3 3.13 3.12 3.11}; do
    [[ $name == 3.[0-9]* ]] && name=python$name
    for python in "$name" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$name"; do
      "$python" -c 'import sys, ensurepip
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
        2>/dev/null && command -v "$python" && return
    done
  done
  echo "Found no Python 3.11 to 3.13 with venv and ensurepip (tried" \
    "${PYTHON:-python3, python3.13, python3.12, python3.11}): install one, on Debian" \
    "with 'apt install python3-venv', or name one with PYTHON=/path/to/python." >&2
  return 2
}

# Installs this checkout with the extras named by $1 into $VENV.
install() {
  local uv
  if [[ ${INSTALLER:-uv} == uv ]]; then
    if uv=$(command -v uv) || { "$VENV/bin/python" -m pip install -qq "uv>=0.9,<1" &&
      uv=$VENV/bin/uv; }; then
      "$uv" pip install --quiet --python "$VENV/bin/python" --editable ".[$1]"
      return
    fi
    echo "uv is not on PATH and pip could not fetch it: installing with pip."
  fi
  "$VENV/bin/python" -m pip install -qq --use-pep517 --editable ".[$1]"
}

# Whether $VENV has these extras, from this setup.py, in this directory (an editable
# install records its path) and, if PYTHON is given, with that interpreter.
is_installed() {
  local has wanted=$1 python
  { read -r has && read -r python; } 2>/dev/null < "$VENV/installed" || return
  [[ $has == "${EXTRA:-dev} $wanted" ||
    $has == "dev $wanted" && ${EXTRA:-} != *cuda* ]] || return  # dev has all extras but cuda.
  [[ -z ${PYTHON:-} || $python == "$(find_python)" ]]
}

wanted=$({ cat setup.py && pwd; } | sha256sum)
if ! is_installed "$wanted"; then
  echo "Installing into $VENV: a few minutes, and only when setup.py changes."
  python=$(find_python) || exit
  "$python" -m venv --clear "$VENV"
  install "${EXTRA:-dev}"
  printf '%s\n' "${EXTRA:-dev} $wanted" "$python" > "$VENV/installed"
fi
export PATH="$PWD/$VENV/bin:$PATH"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/xla}"
# With libtpu installed, JAX searches for a TPU and warns when there is none.
if ! compgen -G '/dev/accel*' > /dev/null && ! compgen -G '/dev/vfio/[0-9]*' > /dev/null &&
  ! compgen -G '/dev/nvidia*' > /dev/null && [[ ! -e /dev/kfd ]]; then
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
fi
