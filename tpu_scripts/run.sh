#!/usr/bin/env bash
# Runs a module of vjax on every host of a slice and shows the log of its first host.
#
#   tpu_scripts/run.sh NAME [options] -- vjax.train configs/world_vae.py --seed=1
#   tpu_scripts/run.sh NAME --follow      shows the log again, after Ctrl-C or a lost connection
#   tpu_scripts/run.sh NAME --stop        SIGTERM on every host: training saves, then ends
#
#   --slices N             as many as were created
#   --zone Z  --project P  where gcloud has other defaults
#   --dry-run              print what would be run, and run nothing
#
# The run is the hosts' own: it goes on without this script. Ends with 0 only if it ended so on all
# hosts, else with the status of one that failed: 143 if it was stopped, 75 if it was only preempted.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--follow --stop --slices= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || die "One name, not ${arguments[*]}; the module stands behind --."
on_host=vjax/tpu_scripts/host.sh
first=$(nodes | sed -n 1p)

if [ -n "$stop" ]; then
  on_all "$on_host stop"
  exit
fi
if [ -z "$follow" ]; then
  [[ ${module[0]-} == vjax.* ]] || die "A module of vjax is missing: -- vjax.train configs/FILE.py"
  for word in "${module[@]}"; do [ -n "$word" ] || die "An argument of ${module[0]} is empty."; done
  if ! on_all "$on_host start $(words "${module[@]}")"; then
    say "It did not start on every host. Where it did, it ends by itself if the others do not come;" \
      "at once: tpu_scripts/run.sh $(where) --stop"
    exit 1
  fi
fi
trap 'say "The run goes on. Back to it: run.sh $(where) --follow; end it: run.sh $(where) --stop"; exit 130' INT
ssh_to "$first" --worker=0 --command="$on_host follow" || say "The log of $first broke off."
if [ -n "$dry_run" ]; then
  on_all "$on_host wait"
  exit
fi
# By its version, gcloud ends with what the first worker that failed did, or with 0 whatever they did.
status=0
told=$(on_all "$on_host wait" | tr -d '\r' | sed -n 's/^vjax-status \([0-9]*\)$/\1/p') || status=$?
if grep -qx 143 <<<"$told"; then # by hand
  status=143
elif failed=$(grep -vxE '0|75|' <<<"$told"); then
  status=${failed%%$'\n'*}
elif grep -qx 75 <<<"$told"; then
  status=75
elif [ -z "$told" ] && [ "$status" -eq 0 ]; then
  status=255
fi
exit "$status"
