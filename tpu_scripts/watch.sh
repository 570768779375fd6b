#!/usr/bin/env bash
# Runs a module on a slice to its end, whatever happens to the slice on the way.
#
#   tpu_scripts/watch.sh NAME --slice v5p:4x4x4 --share gs://BUCKET --spot -- vjax.train configs/FILE.py
#
# A slice that is taken away (or was never there) is deleted, asked for anew, set up, and the run goes
# on from its last checkpoint. Where hosts fail on a slice that stays, the whole set starts again.
#
#   --restarts N           so often at most on a slice that stays (3)
#   --share WHAT           as for setup.sh: without it a new slice would begin at step 0
#   --slice --slices --spot --reserved --wait-minutes --runtime-version --network --zone --project
#                          as for create.sh
#   --dry-run              print what would be run, and run nothing
#
# Leave it on a machine that stays up. Ends with 0 when the run has ended, and otherwise as the run, or
# as create.sh. The slice stays: delete.sh NAME.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--restarts= --share= --slice= --slices= --spot --reserved --wait-minutes= --runtime-version= --network= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || die "One name, not ${arguments[*]}; the module stands behind --."
[ -n "$share" ] || die "--share is missing: without it a new slice would begin at step 0."
[[ ${module[0]-} == vjax.* ]] || die "A module of vjax is missing: -- vjax.train configs/FILE.py"
restarts=${restarts:-3}
[[ $restarts =~ ^[0-9]+$ ]] || die "--restarts $restarts: a number is needed."

location=("$name" ${zone:+"--zone=$zone"} ${project:+"--project=$project"} ${dry_run:+--dry-run})
several=("${location[@]}" --slices="$slices")

again() {
  if [ -n "$1" ]; then "$here/delete.sh" "${location[@]}" || return; fi
  "$here/create.sh" "${several[@]}" --slice="$slice" ${spot:+--spot} ${reserved:+--reserved} \
    ${wait_minutes:+"--wait-minutes=$wait_minutes"} ${network:+"--network=$network"} \
    ${runtime_version:+"--runtime-version=$runtime_version"} || return
  "$here/setup.sh" "${several[@]}" --share="$share"
}

if [ -n "$dry_run" ]; then
  "$here/run.sh" "${several[@]}" -- "${module[@]}"
  again SUSPENDED
  exit
fi
trap 'say "$name is left as it is, and so is its run: run.sh $(where) --follow"; exit 130' INT

while :; do
  state=$(state_of)
  if [ "$state" != ACTIVE ]; then
    say "$name is ${state:-not there}: it is made anew."
    again "$state" || {
      status=$?
      # Taken away at once, or between creating it and setting it up: once more.
      state=$(state_of)
      if [ "$status" -eq 4 ] || { [ -n "$state" ] && [[ $state == SUSPEND* ]]; }; then
        sleep "$poll"
        continue
      fi
      exit "$status"
    }
  fi
  status=0
  "$here/run.sh" "${several[@]}" -- "${module[@]}" || status=$?
  if [ "$status" -eq 0 ]; then exit 0; fi
  sleep "$poll" # a slice that is taken away is ACTIVE for a moment longer
  if [ "$(state_of)" = ACTIVE ]; then
    case $status in
      130 | 143)
        say "The run was stopped by hand ($status)."
        exit "$status"
        ;;
      75)
        say "The run was preempted and has saved: it goes on."
        continue
        ;;
    esac
    if [ "$restarts" -eq 0 ]; then
      say "The run ended with $status and may not start again; see its log above."
      exit "$status"
    fi
    restarts=$((restarts - 1))
    say "The run ended with $status: all hosts start again ($restarts more)."
    "$here/run.sh" "${several[@]}" --stop || true
    "$here/run.sh" "${several[@]}" --follow >/dev/null 2>&1 || true # until none is left
  fi
done
