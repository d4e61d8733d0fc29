#!/usr/bin/env bash
# Prints a JobSet that trains on TPU slices of a GKE cluster, for kubectl:
#
#   export IMAGE=REGISTRY/salt_jax SLICES=4
#   bash launch/gke_jobset.sh salt-2p8b --gin_file=gin/salt_2p8b.gin \
#     --workdir=gs://BUCKET/salt | kubectl apply -f -
#
# The default slice is v5e:16x16: 64 hosts of 4 chips. Set ACCELERATOR, TOPOLOGY, HOSTS and
# CHIPS for another. The whole set starts again up to RESTARTS times when a host fails or
# is preempted; exit code 2, which a person has to fix, ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} != --dry_run ]] || shift # It is one in any case.
name=${1:?give the name of the JobSet, then the options of train}
: "${IMAGE:?set IMAGE}" "${TOPOLOGY:=16x16}" "${CHIPS:=4}"
source launch/gke_pods.sh
cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    # One slice, which is one node pool, for each job.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-100}
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: ${SLICES:-1}
    template:
      spec:
        parallelism: ${HOSTS:-64}
        completions: ${HOSTS:-64}
        completionMode: Indexed
        backoffLimit: 0
END
gke_pods train train --distributed=auto "${@:2}" | sed 's/^/        /'
