#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster with XPK (pip install xpk):
#
#   export CLUSTER=my-cluster ZONE=us-west4-a PROJECT=my-project IMAGE=REGISTRY/salt_jax
#   TPU_TYPE=v5litepod-256 SLICES=4 bash launch/gke_xpk.sh salt-2p8b \
#     --gin_file=gin/salt_2p8b.gin --workdir=gs://BUCKET/salt
#
# --dry_run as the first option prints the command. The image: launch/Containerfile. XPK
# starts again after codes 127 to 255 and those named here, not after 2.
set -euo pipefail
xpk=(xpk)
[[ ${1:-} != --dry_run ]] || { xpk=(echo xpk) && shift; }
name=${1:?give the name of the workload, then the options of train}
printf -v train ' %q' "${@:2}"

exec "${xpk[@]}" workload create \
  --cluster="${CLUSTER:?set CLUSTER}" --zone="${ZONE:?set ZONE}" \
  --project="${PROJECT:?set PROJECT}" --workload="$name" \
  --tpu-type="${TPU_TYPE:?set TPU_TYPE}" --num-slices="${SLICES:-1}" \
  --docker-image="${IMAGE:?set IMAGE}" \
  --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=1,75 \
  --command="python -m salt_jax.main train --distributed=auto$train"
