#!/usr/bin/env bash
# Trains on one TPU VM, in a checkout on it: launch/tpu_vm.sh [--dry_run] OPTION...
#
#   tmux new -s salt bash launch/tpu_vm.sh --gin_file=gin/slm_1p5b.gin --workdir=gs://BUCKET/slm
#
# The options are those of train. The first run installs. For a pod: launch/tpu_pod.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
dry_run=()
if [[ ${1:-} == --dry_run ]]; then
  dry_run=(--dry_run) && shift
else
  export EXTRA=tpu,gcs
  source launch/env.sh
fi
exec bash launch/until_done.sh "${dry_run[@]}" python -m salt_jax.main train "$@"
