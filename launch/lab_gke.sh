#!/usr/bin/env bash
# Prints one Job of GKE for each run of a laboratory, for kubectl:
#
#   export IMAGE=REGISTRY/salt_jax
#   bash launch/lab_gke.sh lab-mine --gin_file=gin/lab_tiny.gin \
#     --gin.lab.Lab.root="'gs://BUCKET/lab'" | kubectl apply -f -
#
# A Job has one host, by default v5e:2x4 with 8 chips; set ACCELERATOR, TOPOLOGY and CHIPS
# for another. What several Jobs need, the first makes while the others wait for its lock.
# They need no other order; to spare chips that wait, apply one wave after another, with
# WAVE=0 and so on, and `kubectl wait --for=condition=complete job -l lab=lab-mine`. Then
# `salt_jax lab` with the same options, on any machine, writes the report.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} != --dry_run ]] || shift # It is one in any case.
name=${1:?give the name of the Jobs, then the options of lab} number=0
: "${IMAGE:?set IMAGE}" "${TOPOLOGY:=2x4}" "${CHIPS:=8}"
source launch/lab_jobs.sh
source launch/gke_pods.sh
jobs=$(lab_jobs "${@:2}")
while read -r wave pattern; do
  number=$((number + 1))
  [[ ${WAVE:-$wave} == "$wave" ]] || continue
  cat << END
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $name-$number
  labels: {lab: $name, wave: "$wave"}
spec:
  backoffLimit: ${RETRIES:-20}
END
  gke_pods lab lab "${@:2}" "--only=$pattern" | sed 's/^/  /'
done <<< "$jobs"
