#!/usr/bin/env bash
# Asks for a TPU slice (a queued resource) and waits until it is there.
#
#   tpu_scripts/create.sh NAME --slice v5p:4x4x4 [options]
#
#   --slice KIND:SHAPE     v4, v5e, v5p or v6e and its shape in chips, as in `python -m vjax.plan`
#   --slices N             so many slices over the data-centre network
#   --spot | --reserved    capacity that can be taken away | of your reservation
#   --wait-minutes N       give up waiting then; without it, wait for as long as it takes
#   --runtime-version V    another image than the one that suits the slice
#   --network NET          another network than `default`: its hosts get the tag NAME and a firewall
#                          rule, NAME-vjax, that lets them reach each other
#   --zone Z  --project P  where gcloud has other defaults
#   --dry-run              print what would be run, and run nothing
#
# Ends with 0 (ACTIVE), 1 (FAILED, or refused), 3 (no capacity in time) or 4 (SUSPENDED: taken away),
# and says what stays behind and how to delete it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--slice= --slices= --spot --reserved --wait-minutes= --runtime-version= --network= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || die "One name, not ${arguments[*]}."
[[ $wait_minutes =~ ^[0-9]*$ ]] || die "--wait-minutes $wait_minutes: whole minutes are needed."

case $generation in
  v4) accelerator=v4-$((2 * chips)) image=tpu-ubuntu2204-base ;;
  v5p) accelerator=v5p-$((2 * chips)) image=v2-alpha-tpuv5 ;;
  v5e) accelerator=v5litepod-$chips image=v2-alpha-tpuv5-lite ;;
  v6e) accelerator=v6e-$chips image=v2-alpha-tpuv6e ;;
  tpu7x) die "TPU7x is to be had on GKE alone: tpu_scripts/gke.sh." ;;
esac
if [ "$slices" -eq 1 ]; then
  ids=(--node-id="$name")
else
  ids=(--node-count="$slices" --node-prefix="$name")
fi

asked=''
trap leftovers EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "$network" ]; then
  run gcloud compute firewall-rules create "$name-vjax" --network="$network" --allow=tcp \
    --source-tags="$name" --target-tags="$name" ${project:+"--project=$project"} ||
    say "The firewall rule $name-vjax was not made: fine if it is there from before."
fi
asked=1
if ! tpus queued-resources create "$name" --accelerator-type="$accelerator" \
  --runtime-version="${runtime_version:-$image}" "${ids[@]}" ${spot:+--spot} \
  ${reserved:+--reserved} ${network:+"--network=$network" "--tags=$name"}; then
  say "$name was refused; gcloud says why above."
  exit 1
fi
if [ -n "$dry_run" ]; then
  tpus queued-resources describe "$name" --format='value(state.state)'
  exit 0
fi

began=$SECONDS
while :; do
  state=$(state_of)
  heed "$state"
  case $state in
    ACTIVE) exit 0 ;;
    NOT_FOUND)
      say "$name is no longer there: it was deleted, or never made."
      exit 1
      ;;
    FAILED)
      say "$name cannot be had: $(tpus queued-resources describe "$name" \
        --format='value(state.failedData.error.message)' 2>/dev/null || true)"
      exit 1
      ;;
    SUSPENDING | SUSPENDED)
      say "$name was taken away before it could be used."
      exit 4
      ;;
  esac
  if [ -n "$wait_minutes" ] && [ $((SECONDS - began)) -ge $((60 * wait_minutes)) ]; then
    say "There was no capacity for $slice within $wait_minutes minutes: try another zone, --spot or" \
      "--reserved, or a smaller slice."
    exit 3
  fi
  sleep "$poll"
done
