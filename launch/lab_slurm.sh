#!/usr/bin/env bash
# Runs a laboratory with Slurm, in a checkout that all nodes see:
#
#   bash launch/lab_slurm.sh [--dry_run] --gin_file=gin/lab_tiny.gin [OPTION OF lab ...]
#
# It queues an array of jobs for each wave of runs (small models, scores, students), each
# after the one before, and last a job that writes the report. A job that is stopped
# saves, and is queued again. The same command again queues what is not complete.
#
#   SBATCH   words after sbatch, such as "--partition=gpu --nodes=2"
#   HOSTS    words before the commands that several processes run, such as srun
#SBATCH --job-name=lab
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

if [[ -n ${SLURM_JOB_ID:-} ]]; then # In a job: its patterns, then the options.
  patterns=()
  while [[ $1 != -- ]]; do patterns+=("$1") && shift; done
  shift
  [[ -z ${HOSTS:-} ]] || set -- "$@" --hosts="$HOSTS"
  [[ ${#patterns[@]} -eq 0 ]] || set -- "$@" --only="${patterns[$SLURM_ARRAY_TASK_ID]}"
  source launch/until_done.sh
  code=0
  RETRIES=0 until_done "${VENV:-.venv}/bin/python" -m salt_jax.main lab "$@" || code=$?
  ((code != 75)) || scontrol requeue "$SLURM_JOB_ID"
  exit "$code"
fi

sbatch=(sbatch)
[[ ${1:-} != --dry_run ]] || { sbatch=(echo sbatch) && shift; }
source launch/lab_jobs.sh
jobs=$(lab_jobs "$@")
read -ra words <<< "${SBATCH:-}"
after=()
submit() { # Queues an array of these patterns; without any, one job.
  local array=()
  [[ $# -eq 0 ]] || array=(--array="0-$(($# - 1))")
  id=$("${sbatch[@]}" --parsable "${words[@]}" "${after[@]}" "${array[@]}" \
    launch/lab_slurm.sh "$@" -- "${options[@]}")
  [[ ${sbatch[0]} != echo ]] || { echo "$id" && id="JOBS_OF_WAVE_$wave"; }
  after=(--dependency="afterany:$id")
}
options=("$@")
mapfile -t waves < <(cut -d' ' -f1 <<< "$jobs" | sort -nu)
for wave in "${waves[@]}"; do
  mapfile -t patterns < <(sed -n "s/^$wave //p" <<< "$jobs")
  submit "${patterns[@]}"
done
submit
