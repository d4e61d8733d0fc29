#!/usr/bin/env bash
# Runs a command until it is done: launch/until_done.sh [--dry_run] COMMAND...
#
# By the exit codes of docs/operations.md: after 75 (stopped early, and saved) the command
# runs again, after 1 RETRIES times (5), PAUSE seconds (30) later; other codes end it. A
# signal is passed on to the command, which saves; then nothing runs again.
#
# A script that sources this gets the function `until_done`, and the traps.
stopped='' child=''
pass_on() {
  stopped=$1
  [[ -z $child ]] || kill -s "$1" "$child" 2> /dev/null
}
trap 'pass_on TERM' TERM INT # A background command ignores INT.
trap 'pass_on HUP' HUP
trap 'pass_on USR1' USR1

until_done() {
  local code retries=${RETRIES:-5}
  if [[ $1 == --dry_run ]]; then
    shift && printf '%s\n' "${*@Q}"
    return
  fi
  while :; do
    "$@" &
    child=$!
    # A signal may come before the line above.
    [[ -z $stopped ]] || kill -s "$stopped" "$child" 2> /dev/null
    # Not by `wait`: a signal ends it, and of a command that ends at the same moment bash
    # loses the exit code. It may do so here too: then the code is -1, and the command,
    # which was told to stop, counts as stopped.
    while kill -0 "$child" 2> /dev/null; do
      sleep 0.2 & wait $!
    done
    wait "$child"
    code=$?
    ((code >= 0)) || code=75
    child=''
    ((code == 75)) || ((code == 1 && retries-- > 0)) || return "$code"
    [[ -n $stopped ]] || echo "Exit code $code: again in ${PAUSE:-30} s." >&2
    [[ -n $stopped ]] || { sleep "${PAUSE:-30}" & wait $!; }
    [[ -z $stopped ]] || return "$code"
  done
}
[[ ${BASH_SOURCE[0]} != "$0" ]] || until_done "$@"
