#!/usr/bin/env bash
# Trains on every host of a TPU pod slice, from a workstation with gcloud:
#
#   export TPU=my-tpu ZONE=us-west4-a       # PROJECT too, unless it is gcloud's default
#   bash launch/tpu_pod.sh install          # copies this checkout to all hosts, installs
#   bash launch/tpu_pod.sh start --gin_file=gin/salt_2p8b.gin --workdir=gs://BUCKET/salt
#   bash launch/tpu_pod.sh log              # of host 0
#   bash launch/tpu_pod.sh stop             # saves; `start` resumes
#
# --dry_run as the first option prints the commands. A host that fails ends all of them,
# and each starts again by itself (launch/until_done.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
gcloud=(gcloud)
[[ ${1:-} != --dry_run ]] || { gcloud=(echo gcloud) && shift; }
at=(--zone="${ZONE:?set ZONE}" ${PROJECT:+--project="$PROJECT"})
tpu=${TPU:?set TPU}

on() { # Runs a command on the hosts that $1 names: a number, or all.
  "${gcloud[@]}" compute tpus tpu-vm ssh "$tpu" "${at[@]}" --worker="$1" --command="$2"
}
case "${1:-}" in
  install)
    code=$(mktemp -d)/salt_jax.tar.gz
    git archive --prefix=salt_jax/ --output="$code" HEAD
    "${gcloud[@]}" compute tpus tpu-vm scp "$code" "$tpu": "${at[@]}" --worker=all
    on all 'tar xzf salt_jax.tar.gz && cd salt_jax && EXTRA=tpu,gcs && . launch/env.sh' ;;
  start)
    run="bash launch/tpu_vm.sh --distributed=auto$(printf ' %q' "${@:2}")"
    on all "cd salt_jax && nohup setsid $run >> train.log 2>&1 < /dev/null & echo started" ;;
  log) on 0 'tail -n 100 -F salt_jax/train.log' ;;
  stop) on all "pkill -TERM -f '[l]aunch/until_done.sh'" ;;
  *) echo "Give install, start OPTION..., log or stop; see launch/tpu_pod.sh." >&2 && exit 2 ;;
esac
