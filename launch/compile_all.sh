#!/usr/bin/env bash
# Compiles the paper-scale experiments ahead of time, and updates docs/scale.md
#
# No TPU is needed. Programs that several experiments share are compiled once per pod:
# stage two of SALT is the program of BASELINE, and selection does not change stage one.
#
#   bash launch/compile_all.sh               all of them: half an hour on two cores
#   bash launch/compile_all.sh --continue    resume: only those without a report
#   bash launch/compile_all.sh --only=NAME   recompile one entry of the list below
#   EXTRA=dev,cuda bash launch/compile_all.sh --gpu
#                                            those for GPUs; resumes; --gpu=NAME: one entry
#   bash launch/compile_all.sh --predict     at the level of train, with predicted times:
#                                            hours; resumes; --predict=NAME: one entry
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

adamw="--gin.OPTIMIZER=@optimizer.AdamW()"
remat="--gin.llm_2p8b/model.TransformerConfig.remat="
save_dots="$remat'save_dots'"
projections="$remat'save_dots_without_batch'"
stages="--programs=distill,standard"
hosts="--gin.HOSTS"
microbatches="--gin.config.Experiment.num_microbatches"

# Columns: name, experiment, slice topology, number of slices, options.
list="
salt_2p8b             salt_2p8b     v5e:16x16 1
salt_2p8b_x4          salt_2p8b     v5e:16x16 4 $stages
adamw_x1              salt_2p8b     v5e:16x16 1 $stages $adamw
save_dots_x4          salt_2p8b     v5e:16x16 4 $stages $save_dots
projections_x4        salt_2p8b     v5e:16x16 4 $stages $projections
save_dots_adamw_x4    salt_2p8b     v5e:16x16 4 $stages $save_dots $adamw
baseline_2p8b_x4      baseline_2p8b v5e:16x16 4 --programs=standard
rkd_2p8b              rkd_2p8b      v5e:16x16 1 --programs=distill
rkd_2p8b_x4           rkd_2p8b      v5e:16x16 4 --programs=distill
slm_0p5b              slm_0p5b      v5e:16x16 1 --programs=standard
slm_0p5b_x4           slm_0p5b      v5e:16x16 4 --programs=standard
slm_1p5b              slm_1p5b      v5e:16x16 1 --programs=standard
slm_1p5b_x4           slm_1p5b      v5e:16x16 4 --programs=standard
score_pile            score_pile    v5e:16x16 1
salt_8p6b             salt_8p6b     v5e:16x16 1 $stages
salt_8p6b_x4          salt_8p6b     v5e:16x16 4 $stages
salt_2p8b_v5p         salt_2p8b     v5p:8x8x8 1 $stages
salt_70b              salt_70b      v5p:8x8x8 1 $stages
"

gpu_list="
slm_1p5b_h100x8       slm_1p5b_h100x8    h100:8    1
slm_1p5b_h200x8       slm_1p5b_h100x8    h200:8    1 --programs=standard
slm_1p5b_b200x8       slm_1p5b_h100x8    b200:8    1 --programs=standard
slm_1p5b_a100x8       slm_1p5b_h100x8    a100:8    1 --programs=standard
salt_2p8b_h100x16     salt_2p8b_h100x64  h100:8x2  1 $stages $hosts=2 $microbatches=16
salt_2p8b_h100x64     salt_2p8b_h100x64  h100:8x8  1
salt_70b_h100x512     salt_70b_h100x512  h100:8x64 1 $stages
score_pile_h100x8     score_pile         h100:8    1
"

reports=.cache/compile
only='' level=O0 table=table predicted=''
case "${1:-}" in
  '') rm -rf "$reports" ;;
  --continue) ;;
  --only=*)
    only=${1#--only=}
    grep -q "^$only " <<< "$list" || { echo "No $only in the list." >&2; exit 2; }
    rm -f "$reports/$only.json"
    ;;
  --gpu | --gpu=*)
    reports=.cache/compile_gpu table=gpu_table list=$gpu_list
    only=${1#--gpu}
    only=${only#=}
    [[ -z $only ]] || grep -q "^$only " <<< "$list" ||
      { echo "No $only in the list of GPUs." >&2; exit 2; }
    [[ -z $only ]] || rm -f "$reports/$only.json"
    ;;
  --predict | --predict=*)
    reports=.cache/predicted level=train table=predictions predicted=--predicted
    only=${1#--predict}
    only=${only#=}
    [[ -z $only ]] || grep -q "^$only " <<< "$list" ||
      { echo "No $only in the list." >&2; exit 2; }
    [[ -z $only ]] || rm -f "$reports/$only.json"
    ;;
  *) echo "Options are --continue, --only=NAME, --gpu and --predict, not $1." >&2; exit 2 ;;
esac
mkdir -p "$reports"

write_table() {
  names=$(grep . <<< "$list" | while read -r name _; do echo "$reports/$name.json"; done)
  # A run without a report keeps the rows that it has.
  # shellcheck disable=SC2086
  sed -n "/<!-- $table begins -->/,/<!-- $table ends -->/p" docs/scale.md |
    python -m salt_jax.compiling.overview $predicted $names > "$reports/table.md"
  sed -i -e "/<!-- $table begins -->/,/<!-- $table ends -->/{//!d}" \
    -e "/<!-- $table begins -->/r $reports/table.md" docs/scale.md
}

grep . <<< "$list" | while read -r name file topology num_slices options; do
  [[ -f $reports/$name.json || -n $only && $name != "$only" ]] && continue
  echo "== $name: gin/$file.gin on $topology x $num_slices $options"
  # Exit status 1: the program does not fit, which the table shows.
  # shellcheck disable=SC2086
  python -m salt_jax.main compile --gin_file="gin/$file.gin" --topology="$topology" \
    --num_slices="$num_slices" --optimization_level="$level" --json $options \
    > "$reports/unfinished" < /dev/null || [[ $? == 1 ]]
  python -m json.tool "$reports/unfinished" > /dev/null
  mv "$reports/unfinished" "$reports/$name.json"
  write_table
done
