# For `source`: `gke_pods NAME ARGUMENT...` prints what a Job of GKE says of its pods.
#
# They have one container NAME that runs salt_jax with the arguments, on hosts of CHIPS
# chips of a slice TOPOLOGY. Exit code 2, which a person has to fix, ends the Job.
#   IMAGE         the image of the container
#   ACCELERATOR   the kind of the chips (tpu-v5-lite-podslice)
gke_pods() {
  local name=$1 arguments='' argument
  for argument in "${@:2}"; do
    arguments+=$'\n'"      - '${argument//\'/\'\'}'"
  done
  cat << END
podFailurePolicy:
  rules:
  - action: FailJob
    onExitCodes: {containerName: $name, operator: In, values: [2]}
template:
  spec:
    restartPolicy: Never
    terminationGracePeriodSeconds: 300
    nodeSelector:
      cloud.google.com/gke-tpu-accelerator: ${ACCELERATOR:-tpu-v5-lite-podslice}
      cloud.google.com/gke-tpu-topology: $TOPOLOGY
    containers:
    - name: $name
      image: $IMAGE
      args:$arguments
      resources:
        requests: {google.com/tpu: $CHIPS}
        limits: {google.com/tpu: $CHIPS}
END
}
