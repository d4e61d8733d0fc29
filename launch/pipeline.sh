#!/usr/bin/env bash
# Runs SALT_DS from a corpus to an evaluated model: launch/pipeline.sh [--dry_run] ROOT
#
# ROOT, a folder or gs://BUCKET/FOLDER, gets data, exports, scores and the runs slm and
# salt. After a stop or a failure the same command goes on where it was: each command
# skips, or only repeats, what is complete. Exit codes are those of docs/operations.md.
#
#   PREPARE SLM SCORE SALT   gin files (gin/tiny_prepare.gin, ... tiny_salt_ds.gin)
#   SCORER_STEP              step of the SLM that scores (150); in its keep_steps
#   HOSTS                    words before the commands of several hosts, such as srun
#   SALT_JAX                 words before all (python -m salt_jax.main)
#
#   PREPARE=gin/prepare_pile.gin SLM=gin/slm_1p5b.gin SCORE=gin/score_pile.gin \
#     SALT=gin/salt_2p8b.gin SCORER_STEP=26000 bash launch/pipeline.sh gs://BUCKET/salt
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/until_done.sh
dry_run=()
[[ ${1:-} != --dry_run ]] || { dry_run=(--dry_run) && shift; }
root=${1:?give ROOT, a folder or gs://BUCKET/FOLDER}
read -ra salt_jax <<< "${SALT_JAX:-python -m salt_jax.main}"
read -ra hosts <<< "${HOSTS:-}"
# --distributed is for commands that all hosts run.
together=() && [[ ${#hosts[@]} -eq 0 ]] || together=(--distributed=auto)

one() { # Runs a command in one process.
  echo "== $*"
  until_done "${dry_run[@]}" "${salt_jax[@]}" "$@" || exit
}
all() { # Runs a command on all hosts.
  echo "== $*"
  until_done "${dry_run[@]}" "${hosts[@]}" "${salt_jax[@]}" "$@" "${together[@]}" || exit
}
data=(--gin.DATA="'$root/data'")
slm=(--gin_file="${SLM:-gin/tiny_slm.gin}" --workdir="$root/slm" "${data[@]}")
score=(--gin_file="${SCORE:-gin/tiny_score.gin}" "${data[@]}")
score+=(--gin.SCORER="'$root/exports/slm_early'" --gin.SCORES="'$root/scores'")
salt=(--gin_file="${SALT:-gin/tiny_salt_ds.gin}" --workdir="$root/salt" "${data[@]}")
salt+=(--gin.TEACHER="'$root/exports/slm'" --gin.SCORES="'$root/scores'")

one prepare --gin_file="${PREPARE:-gin/tiny_prepare.gin}" "${data[@]}"
all train "${slm[@]}"
all export "${slm[@]}" --step="${SCORER_STEP:-150}" --output="$root/exports/slm_early"
all export "${slm[@]}" --output="$root/exports/slm"
all score "${score[@]}"
one select "${salt[@]}"
all train "${salt[@]}"
all evaluate "${slm[@]}"
all evaluate "${salt[@]}"
all export "${salt[@]}" --output="$root/exports/salt"
