#!/usr/bin/env bash
# Writes the API reference, from docstrings, to .cache/api: launch/docs.sh
#
# A warning is an error, except for three about correct annotations that pdoc does not
# resolve: of named tuples, of inherited fields, and of what optax.OptState is made of.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

PDOC_ALLOW_EXEC=1 python -W error::UserWarning \
  -W "ignore:Error parsing type annotation ForwardRef" \
  -W "ignore:Error parsing type annotation optax.OptState" \
  -W "ignore:Error parsing type annotation Sequence" \
  -m pdoc --docformat google --output-directory .cache/api salt_jax
echo "Open .cache/api/index.html"
