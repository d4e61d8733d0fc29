#!/usr/bin/env bash
# Writes the API reference, from docstrings, to .cache/api: launch/docs.sh
#
# A warning is an error, except for two that pdoc raises about correct annotations: it
# does not resolve those of named tuples, nor the private types inside optax.OptState.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

PDOC_ALLOW_EXEC=1 python -W error::UserWarning \
  -W "ignore:Error parsing type annotation ForwardRef" \
  -W "ignore:Error parsing type annotation optax.OptState" \
  -m pdoc --docformat google --output-directory .cache/api salt_jax
echo "Open .cache/api/index.html"
