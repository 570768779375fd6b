#!/usr/bin/env bash
# Brings results back from the first host of a slice.
#
#   tpu_scripts/fetch.sh NAME [PATH [TO]] [options]
#
#   PATH                   in the checkout on the host (runs), such as runs/world_vae/bundle
#   TO                     a directory here (.)
#   --slices N             as many as were created
#   --zone Z  --project P  where gcloud has other defaults
#   --dry-run              print what would be run, and run nothing
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--slices= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -le 3 ] || die "NAME, PATH and TO, no more: ${arguments[*]}."
path=${arguments[1]:-runs} to=${arguments[2]:-.}
[[ $path != /* && $path != *..* ]] || die "$path: a path in the checkout on the host is needed."
first=$(nodes | sed -n 1p)
run mkdir -p "$to"
tpus tpu-vm scp "$first:vjax/$path" "$to" --recurse --worker=0
