#!/usr/bin/env bash
# Writes the API reference, from docstrings, to .cache/api: launch/docs.sh
#
# Warnings are errors, except three on correct annotations that pdoc cannot resolve: named
# tuples, inherited fields, and the members of optax.OptState.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

PDOC_ALLOW_EXEC=1 python -W error::UserWarning \
  -W "ignore:Error parsing type annotation ForwardRef" \
  -W "ignore:Error parsing type annotation optax.OptState" \
  -W "ignore:Error parsing type annotation Sequence" \
  -m pdoc --docformat google --output-directory .cache/api salt_jax
echo "Open .cache/api/index.html"
