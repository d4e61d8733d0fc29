#!/usr/bin/env bash
# Checks this machine's GPUs or TPU chips in eight minutes, once installed.
#
#   bash launch/check_accelerator.sh            runs/check_accelerator/check.{json,html}
#   bash launch/check_accelerator.sh --small    small sizes: tries the check itself, on a CPU
#
# Right or wrong: losses, attention kernels, a run killed and resumed, saved steps,
# decoding. How fast: steps beside predictions, MFU, memory, input. Options are those of
# salt_jax check. On a pod it checks the chips of this host; run it on one.
# It uses the salt_jax of the python on PATH if there is one, else installs into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! python -c 'import jax, orbax.checkpoint, seqio, tensorboardX' 2> /dev/null; then
  if compgen -G '/dev/nvidia[0-9]*' > /dev/null; then
    export EXTRA=cuda
  elif compgen -G '/dev/accel*' > /dev/null || compgen -G '/dev/vfio/[0-9]*' > /dev/null; then
    export EXTRA=tpu
  fi
  source launch/env.sh
fi
exec python -m salt_jax.main check "$@"
