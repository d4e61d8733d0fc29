#!/usr/bin/env bash
# Sets up, then checks layout, types and tests: launch/test.sh [--fast] [PYTEST ARGS]
#
# --fast skips the tests marked slow. Test files are distributed over two processes;
# -n 0 uses one.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

if [[ ${1:-} == --fast ]]; then
  set -- -m "not slow" "${@:2}"
fi
ruff format --check .
ruff check .
mypy
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
