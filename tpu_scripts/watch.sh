#!/usr/bin/env bash
# Runs a module on a slice to its end, whatever happens to the slice on the way.
#
#   tpu_scripts/watch.sh NAME --slice v5p:4x4x4 --share gs://BUCKET --spot -- vjax.train configs/FILE.py
#
# A slice that is taken away (or was never there) is deleted, asked for anew, set up, and the run goes
# on from its last checkpoint. Where hosts fail on a slice that stays, the whole set starts again. A run
# that is going on already is watched, not started.
#
#   --restarts N           so often at most without a new checkpoint in between (3); where the slice was
#                          taken away it does not count
#   --share WHAT           as for setup.sh: without it a new slice would begin at step 0
#   --slice --slices --spot --reserved --wait-minutes --runtime-version --network --zone --project
#                          as for create.sh
#   --dry-run              print what would be run, and run nothing
#
# Leave it on a machine that stays up. Ends with 0 when the run has ended, and otherwise as the run, or
# as create.sh. The slice stays, and it says how to delete it.
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
on_host=vjax/tpu_scripts/host.sh
first=$(nodes | sed -n 1p)
looks=6 # at a slice whose run failed: hosts go before its state says so

create() {
  "$here/create.sh" "${several[@]}" --slice="$slice" ${spot:+--spot} ${reserved:+--reserved} \
    ${wait_minutes:+"--wait-minutes=$wait_minutes"} ${network:+"--network=$network"} \
    ${runtime_version:+"--runtime-version=$runtime_version"}
}
set_up() { "$here/setup.sh" "${several[@]}" --share="$share"; }

if [ -n "$dry_run" ]; then
  "$here/run.sh" "${several[@]}" -- "${module[@]}"
  "$here/delete.sh" "${location[@]}"
  create
  set_up
  exit
fi

# READY where the slice can be used, else the state of its request, or of a node as NODE_STATE.
standing() {
  local state node
  state=$(state_of)
  if [ "$state" = ACTIVE ]; then
    for node in $(nodes); do
      state=$(state_in tpu-vm describe "$node" --format='value(state)')
      case $state in
        READY) continue ;;
        UNKNOWN*) ;;
        *) state=NODE_$state ;;
      esac
      break
    done
  fi
  printf '%s' "$state"
}

# Whether the slice is still there some time after its run failed.
stays() {
  local look state
  for ((look = 0; look < looks; look++)); do
    sleep "$poll"
    state=$(standing)
    case $state in
      READY | UNKNOWN*) ;;
      *) return 1 ;;
    esac
  done
}

# Whether there are new checkpoints, which give all restarts back.
progressed() {
  local began last
  read -r began last < <(ssh_to "$first" --worker=0 --command="$on_host reached" 2>/dev/null) || return
  [[ $began =~ ^[0-9]+$ && $last =~ ^[0-9]+$ ]] || return
  ((last > ${reached:=$began})) || return
  reached=$last left=$restarts
}

# Counts what came to nothing, and ends with its status where that was once too often.
count() {
  if [ "$left" -eq 0 ]; then
    say "$2, and there was no new checkpoint for $restarts restarts: see the log above."
    exit "$1"
  fi
  left=$((left - 1))
  say "$2: it starts again ($left more without a new checkpoint)."
}

left=$restarts reached='' fresh='' ran='' asked=1
trap leftovers EXIT
trap 'say "A run that was started goes on: run.sh $(where) --follow, or watch it again."; exit 130' INT
trap 'exit 143' TERM

while :; do
  state=$(standing) status=0
  heed "$state"
  case $state in
    READY) ;;
    UNKNOWN*) # which says nothing of the slice
      sleep "$poll"
      continue
      ;;
    NODE_RE* | NODE_START* | NODE_CREATING | DELETING | SUSPENDING | \
      ACCEPTED | CREATING | PROVISIONING | WAITING_FOR_RESOURCES)
      fresh=1 # after a restart its mounts are gone
      sleep "$poll"
      continue
      ;;
    *)
      if [ "$state" != NOT_FOUND ]; then "$here/delete.sh" "${location[@]}" || status=$?; fi
      made=''
      if [ "$status" -eq 0 ]; then
        made=1
        create || status=$?
      fi
      case $status in
        0) fresh=1 ;;
        4) sleep "$poll" ;; # taken away at once
        *)
          if [ "$status" -ne 1 ] || [ -z "$ran" ]; then
            if [ -n "$made" ]; then trap - EXIT; fi # it has said what stays behind
            exit "$status"
          fi
          count "$status" "$name could not be made anew"
          sleep "$poll"
          ;;
      esac
      continue
      ;;
  esac

  if [ -n "$fresh" ]; then
    set_up || {
      if stays; then count 1 "$name could not be set up"; fi
      continue
    }
    fresh=''
  fi
  progressed || true
  ran=1 action=(-- "${module[@]}")
  if ssh_to "$first" --worker=0 --command="$on_host running" >/dev/null 2>&1; then action=(--follow); fi
  "$here/run.sh" "${several[@]}" "${action[@]}" || status=$?
  case $status in
    0)
      say "The run has ended."
      exit 0
      ;;
    143)
      say "The run was stopped by hand."
      exit 143
      ;;
  esac
  if stays; then
    if progressed && [ "$status" -eq 75 ]; then
      say "The run was preempted and has saved: it goes on."
    else
      count "$status" "The run ended with $status on a slice that stays"
    fi
    # Unless only the connection broke, none may be left.
    if [ "$status" -ne 255 ]; then on_all "$on_host clear" >/dev/null 2>&1 || true; fi
  fi
done
