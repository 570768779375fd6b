#!/usr/bin/env bash
# Puts this checkout on every host of a slice, as it is here, and installs it.
#
#   tpu_scripts/setup.sh NAME --share gs://BUCKET | HOST:/SHARE [options]
#
#   --share WHAT           storage that all hosts see, at /mnt/vjax: `runs` and the compiled programs
#                          are kept there. A bucket needs a hierarchical namespace, since checkpoints
#                          are committed by renaming a directory:
#                            gcloud storage buckets create gs://BUCKET --location=REGION \
#                              --uniform-bucket-level-access --enable-hierarchical-namespace
#                          HOST:/SHARE is NFS, such as Filestore. Left out, the slice must have one host.
#   --slices N             as many as were created
#   --zone Z  --project P  where gcloud has other defaults
#   --dry-run              print what would be run, and run nothing
#
# Can be run again after a change: what is installed stays. With several hosts gcloud wants the key in
# the agent: ssh-add ~/.ssh/google_compute_engine
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

takes='--share= --slices= --zone= --project='
parse "$@"
[ "${#arguments[@]}" -eq 1 ] || die "One name, not ${arguments[*]}."
[[ -z $share || $share =~ ^[A-Za-z0-9.-]+:/.+$ ]] || is_bucket "$share" ||
  die "--share $share: gs://BUCKET or HOST:/SHARE is needed."

archive=vjax.tar
if [ -n "$dry_run" ]; then
  run cd "$root"
  echo "git ls-files -z --cached --others --exclude-standard | tar -cf $archive --null -T -"
else
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  archive=$scratch/vjax.tar
  # All that git does not ignore, changed or new as it may be, but not what was deleted.
  (cd "$root" && git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
    tar -cf "$archive" --null -T -)
fi
for node in $(nodes); do
  tpus tpu-vm scp "$archive" "$node:vjax.tar" --worker=all
done
# Files that are gone here go there too; the environment and runs on the host stay.
on_all "mkdir -p vjax && rm -rf vjax/vjax vjax/configs vjax/tpu_scripts && tar -xf vjax.tar -C vjax && vjax/tpu_scripts/host.sh install${share:+ $(quote "$share")}"
