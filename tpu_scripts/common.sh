# shellcheck shell=bash disable=SC2034
# What the scripts share: their options, and running a command or only showing it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
poll=${POLL_SECONDS:-20} # between two looks at a state
patience=${SILENT_SECONDS:-1800} # with a gcloud that tells no state

zone='' project='' slice='' slices=1 runtime_version='' network='' share='' wait_minutes=''
restarts='' reservation='' cluster='' location='' image='' service_account=''
spot='' reserved='' follow='' stop='' dry_run=''
takes=''     # the options of a script, those with a value as `--zone=`
arguments=() # what is no option; the first is always the name
module=()    # what stands behind `--`

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$(basename "$0"): $*"
  exit 2
}

# A script's help is the comment that it begins with.
help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# Reads a command line.
parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      '') die "An argument is empty." ;;
      -h | --help)
        help
        exit 0
        ;;
      --dry-run) dry_run=1 ;;
      --)
        shift
        module=("$@")
        break
        ;;
      --*=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        [[ " $takes " == *" $1= "* ]] || die "There is no option $1=; see --help."
        continue
        ;;
      -*)
        local variable=${1#--}
        variable=${variable//-/_}
        if [[ " $takes " == *" $1= "* ]]; then
          [ -n "${2-}" ] || die "$1 needs a value."
          printf -v "$variable" '%s' "$2"
          shift
        elif [[ " $takes " == *" $1 "* ]]; then
          printf -v "$variable" 1
        else
          die "There is no option $1; see --help."
        fi
        ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  name=${arguments[0]-}
  [ -n "$name" ] || die "A name is missing; see --help."
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    die "$name cannot be a name: small letters, digits and hyphens, a letter first."
  [[ $slices =~ ^[1-9][0-9]*$ ]] || die "--slices $slices: a number from 1 on is needed."
  [ -z "$spot" ] || [ -z "$reserved" ] || die "Only one of --spot and --reserved."
  if [[ " $takes " == *" --slice= "* ]]; then read_slice; fi
}

# v5p:4x4x4 is what `python -m vjax.plan --slice` takes too.
read_slice() {
  [ -n "$slice" ] || die "--slice is missing, such as --slice v5p:4x4x4."
  [[ $slice =~ ^(v4|v5e|v5p|v6e|tpu7x):([1-9][0-9]*)x([1-9][0-9]*)(x([1-9][0-9]*))?$ ]] ||
    die "--slice $slice: write v5e:4x4, v6e:4x4, v4:2x2x2, v5p:4x4x4 or tpu7x:2x2x1."
  generation=${BASH_REMATCH[1]} topology=${slice#*:}
  chips=$((BASH_REMATCH[2] * BASH_REMATCH[3] * ${BASH_REMATCH[5]:-1}))
  case $generation in
    v5e | v6e) [ -z "${BASH_REMATCH[4]}" ] || die "--slice $slice: a $generation slice is flat." ;;
    *) [ -n "${BASH_REMATCH[4]}" ] || die "--slice $slice: a $generation slice has three sides." ;;
  esac
  case $topology in
    1x1 | 2x2 | 2x4 | 4x4 | 4x8 | 8x8 | 8x16 | 16x16 | *x*x*) ;;
    *) die "--slice $slice is none: $generation:1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16 or 16x16." ;;
  esac
  case $topology in
    2x2x1 | 2x2x2 | 2x2x4 | 2x4x4) ;;
    *x*x*)
      if ((BASH_REMATCH[2] % 4 || BASH_REMATCH[3] % 4 || BASH_REMATCH[5] % 4)); then
        die "--slice $slice is none: $generation:2x2x1, 2x2x2, 2x2x4, 2x4x4, or sides of 4, 8, 12, …"
      fi
      ;;
  esac
  chips_per_host=4
  case $generation:$chips in
    *:1) chips_per_host=1 ;;
    v5e:8 | v6e:8) chips_per_host=8 ;;
  esac
  hosts=$((chips / chips_per_host))
  [ "$hosts" -gt 0 ] || die "--slice $slice has fewer chips than a host."
}

# A word as a shell reads it back.
quote() {
  local inner="'\\''"
  if [[ $1 =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "${1//\'/$inner}"
  fi
}

words() {
  local word separator=''
  for word in "$@"; do
    printf '%s%s' "$separator" "$(quote "$word")"
    separator=' '
  done
}

run() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$(words "$@")"
  else
    "$@"
  fi
}

tpus() {
  run gcloud compute tpus "$@" ${zone:+"--zone=$zone"} ${project:+"--project=$project"}
}

# A command over ssh, which ends where the host is gone.
ssh_to() {
  tpus tpu-vm ssh "$@" --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=20
}

# Whether a share is a bucket, and nothing in it.
is_bucket() { [[ $1 =~ ^gs://[a-z0-9._-]+$ ]]; }

# The options that say where a slice is, for a command that a person is told.
where() {
  printf '%s' "$name${zone:+ --zone $zone}${project:+ --project $project}"
  if [ "$slices" -gt 1 ]; then printf ' --slices %s' "$slices"; fi
}

# What gcloud says of a state: NOT_FOUND where there is none, and where it cannot be told, UNKNOWN
# and why.
state_in() {
  local found state=''
  if found=$(tpus "$@" 2>&1); then
    state=$(grep -xE '[A-Z_]+' <<<"$found" | tail -n 1) || true # gcloud may have more to say
  elif [[ $found == *NOT_FOUND* || $found == *'not found'* ]]; then
    state=NOT_FOUND
  fi
  printf '%s' "${state:-UNKNOWN, gcloud says: ${found##*$'\n'}}"
}

# Says a state where it is new, and ends where gcloud has told none for too long.
said='' silent=''
heed() {
  if [ "$1" != "$said" ]; then say "$name: $1"; fi
  said=$1
  if [[ $1 != UNKNOWN* ]]; then
    silent=''
  elif ((SECONDS - ${silent:=$SECONDS} >= patience)); then
    say "gcloud has told no state of $name for $((patience / 60)) minutes: see what it says above," \
      "such as that it wants gcloud auth login."
    exit 1
  fi
}

# ACCEPTED, CREATING, WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDING, SUSPENDED, FAILED,
# DELETING, or as above.
state_of() { state_in queued-resources describe "$name" --format='value(state.state)'; }

# Says what stays behind, at the end of a script that has `asked` for a slice.
leftovers() {
  local status=$? state
  trap - EXIT
  if [ -n "$dry_run" ] || [ -z "$asked" ]; then exit "$status"; fi
  state=$(state_of)
  case $state in
    NOT_FOUND) say "No queued resource $name was found; if one comes up after all:" ;;
    UNKNOWN*) say "gcloud does not say whether there is a $name; if so, it may cost money, until:" ;;
    ACTIVE) say "$name is ACTIVE and costs money until it is deleted:" ;;
    FAILED | SUSPENDED) say "$name stays behind as $state, without hosts; its name is taken until:" ;;
    *) say "$name stays in the queue ($state), may become ACTIVE and then costs money, until:" ;;
  esac
  say "  tpu_scripts/delete.sh $(where)${network:+ --network $network}"
  exit "$status"
}

# One node per slice.
nodes() {
  local i
  if [ "$slices" -eq 1 ]; then
    echo "$name"
  else
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  fi
}

# Runs a command on every host of every slice at once; fails if it fails on any.
on_all() {
  local node pid failed=0 started=''
  for node in $(nodes); do
    if [ -n "$dry_run" ] || [ "$slices" -eq 1 ]; then
      ssh_to "$node" --worker=all --command="$1" || failed=$?
    else
      ssh_to "$node" --worker=all --command="$1" &
      started="$started $!"
    fi
  done
  for pid in $started; do wait "$pid" || failed=$?; done
  return "$failed"
}
