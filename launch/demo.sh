#!/usr/bin/env bash
# Sets up, then runs SALT end to end on the embedded corpus: launch/demo.sh [--fresh]
#
# About twenty minutes on two cores, after installation. A second run resumes the first;
# --fresh deletes runs/demo and starts over.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") ;;
  --fresh) rm -rf runs/demo ;;
  *) echo "Unknown option $1; there is --fresh." >&2 && exit 2 ;;
esac
EXTRA=eval,plots
source launch/env.sh

runs=runs/demo
if [[ -f $runs/report/report.html ]]; then
  echo "The demo is complete: see $runs/report/report.html, or start over with --fresh."
  exit
fi
salt() {
  echo
  echo "== $*"
  python -m salt_jax.main "$@"
}

salt prepare --gin_file=gin/tiny_prepare.gin

# The SLM: its checkpoint at step 150 is the scorer, its last one the teacher.
slm=(--gin_file=gin/tiny_slm.gin --workdir=$runs/slm)
salt train "${slm[@]}"
salt export "${slm[@]}" --step=150 --output=$runs/exports/slm_early
salt export "${slm[@]}" --output=$runs/exports/slm
salt score --gin_file=gin/tiny_score.gin

# The student, trained with SALT_DS and as BASELINE.
with=(--gin_file=gin/tiny_salt_ds.gin --workdir=$runs/salt_ds)
without=(--gin_file=gin/tiny_baseline.gin --workdir=$runs/baseline)
salt select "${with[@]}"
salt train "${with[@]}"
salt train "${without[@]}"

salt evaluate "${slm[@]}"
salt evaluate "${with[@]}"
salt evaluate "${without[@]}"
salt export "${with[@]}" --output=$runs/exports/salt_ds
salt export "${without[@]}" --output=$runs/exports/baseline

# Downstream evaluation: few-shot tasks, and fine-tuning on questions.
salt evaluate --tasks=embedded --slices_by=$runs/exports/slm --output=$runs/few_shot \
  --export=$runs/exports/slm --export=$runs/exports/baseline \
  --export=$runs/exports/salt_ds
tuned=()
for set in factbook mathematics; do
  for start in baseline salt_ds; do
    run=(--gin_file=gin/sft_$set.gin --workdir=$runs/sft_$set-$start)
    run+=("--gin.INITIAL_EXPORT='$runs/exports/$start'")
    salt train "${run[@]}"
    salt evaluate "${run[@]}"
    tuned+=(--fine_tuned=$runs/sft_$set-$start)
  done
done
for model in slm baseline salt_ds; do
  [[ -e $runs/exports/${model}_hf ]] || # An export is complete if it exists.
    salt export --format=hf --export=$runs/exports/$model --output=$runs/exports/${model}_hf
done
# The report compares time by these step times. About a minute.
salt time_steps --gin_file=gin/tiny_salt_ds.gin --beside=gin/tiny_slm.gin \
  --output=$runs/step_times.json
salt report --baseline=$runs/baseline --salt=$runs/salt_ds --slm=$runs/slm \
  --scores=$runs/scores --step_times=$runs/step_times.json --few_shot=$runs/few_shot "${tuned[@]}" \
  $(printf -- "--export=$runs/exports/%s " slm{,_hf} baseline{,_hf} salt_ds{,_hf}) \
  --output=$runs/report
