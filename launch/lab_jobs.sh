# For `source`: `lab_jobs OPTION...` prints the jobs of a laboratory, a line each.
#
# A job is all commands about one run, such as baseline/seed-0/*. A line has its wave, a
# number, and the pattern for --only. What it needs is in earlier waves, and is made by
# the job itself where it is not complete.
#   SALT_JAX   words before all (python -m salt_jax.main)
lab_jobs() {
  local salt_jax
  read -ra salt_jax <<< "${SALT_JAX:-python -m salt_jax.main}"
  "${salt_jax[@]}" lab "$@" --list | awk '
    function job(name) { return sub("/[^/]*$", "", name) ? name "/*" : name }
    $1 == "#" {
      this = job($2)
      if (!(this in wave)) { wave[this] = 0; jobs[++count] = this }
      for (i = 4; i <= NF; i++) {
        other = job($i)
        if (other != this && wave[this] <= wave[other]) wave[this] = wave[other] + 1
      }
    }
    END { for (i = 1; i <= count; i++) print wave[jobs[i]], jobs[i] }' | sort -s -n -k1,1
}
