#!/usr/bin/env bash
# Deletes a slice with all its hosts, or takes its request out of the queue.
#
#   tpu_scripts/delete.sh NAME [options]
#
#   --network NET          the one that create.sh was given: its firewall rule goes too
#   --slices N             makes no difference, all of them go
#   --zone Z  --project P  where gcloud has other defaults
#   --dry-run              print what would be run, and run nothing
#
# What lies on the hosts is gone then; a bucket or NFS share stays.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--network= --slices= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || die "One name, not ${arguments[*]}."
tpus queued-resources delete "$name" --force --quiet
if [ -n "$network" ]; then
  run gcloud compute firewall-rules delete "$name-vjax" --quiet ${project:+"--project=$project"}
fi
