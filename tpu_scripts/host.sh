#!/usr/bin/env bash
# What the other scripts do on each host, in the checkout that setup.sh put there.
#
#   host.sh install [gs://BUCKET | HOST:/SHARE]   mounts what is shared, installs, looks for a TPU
#   host.sh exec vjax.MODULE …                    runs a module here and becomes it
#   host.sh start vjax.MODULE …                   runs it on, without a terminal
#   host.sh follow | wait | stop                  the log | its end, with its status | SIGTERM
#   host.sh running | clear                       is it? | end it, whatever it takes
#   host.sh reached                               the step that it began at, and its last checkpoint
#   host.sh --dry-run …                           prints the commands of install and exec
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mounted=${VJAX_MOUNT:-/mnt/vjax}
state=.run # of the run that was started last: its log, pid and status
share=.share # what is mounted here

fail() {
  echo "$(hostname): $*" >&2
  exit 1
}

dry_run=''
if [ "${1-}" = --dry-run ]; then
  dry_run=1
  shift
fi
run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

mount_share() {
  # Where gcsfuse has died, its directory is neither there nor not there.
  if grep -qs " $mounted fuse" /proc/mounts && ! timeout -s KILL 20 ls "$mounted" >/dev/null 2>&1; then
    run sudo umount -l "$mounted"
  fi
  run sudo mkdir -p "$mounted"
  if mountpoint -q "$mounted"; then return; fi
  case $1 in
    gs://*)
      command -v gcsfuse >/dev/null || [ -n "$dry_run" ] || install_gcsfuse
      run sudo chown "$(id -u)" "$mounted"
      run gcsfuse --implicit-dirs "${1#gs://}" "$mounted" ||
        fail "$1 cannot be mounted; gcsfuse says why above. Is there such a bucket (gcloud storage buckets describe $1), and may the service account of this TPU read and write it?"
      ;;
    *)
      run sudo apt-get install -y -q nfs-common
      run timeout -s KILL 50 sudo mount -t nfs -o rw,hard "$1" "$mounted" ||
        fail "$1 cannot be mounted. Is the server there, in this network, and does it export that path?"
      ;;
  esac
}

install_gcsfuse() {
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg |
    sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -q
  sudo apt-get install -y -q gcsfuse
}

link_share() {
  if [ -d runs ] && [ ! -L runs ]; then
    fail "vjax/runs is a directory of this host alone: move what it has to $mounted/runs first."
  fi
  # A bucket that is gone gives errors, a server that is gone no answer.
  run timeout -s KILL 40 mkdir -p "$mounted/runs" "$mounted/compiled" ||
    fail "Nothing can be written to $mounted: what setup.sh mounted there with --share is gone, or read-only."
  run ln -sfn "$mounted/runs" runs
}

find_tpu() {
  local device
  for device in ${TPU_DEVICES:-/dev/accel* /dev/vfio/[0-9]*}; do
    if [ -e "$device" ]; then return; fi
  done
  fail "There is no TPU here: neither /dev/accel* nor /dev/vfio/N. Is this a TPU VM, or a pod with google.com/tpu among its limits?"
}

running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

action=${1-}
[ $# -eq 0 ] || shift
case $action in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' tpu_scripts/host.sh ;;
  install)
    if [ $# -gt 0 ]; then
      mount_share "$1"
      link_share
      [ -n "$dry_run" ] || echo "$1" >"$share"
    fi
    # The images have an older Python; uv brings one.
    run python3 -m pip install --user --quiet uv
    [ -x .venv/bin/python ] || run python3 -m uv venv --quiet --python 3.12 .venv
    run python3 -m uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[tpu]'
    [ -n "$dry_run" ] || find_tpu
    ;;
  exec)
    [[ ${1-} == vjax.* ]] || fail "A module of vjax is needed, such as vjax.train, not ${1-nothing}."
    [ -n "$dry_run" ] || find_tpu
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
    if [ -f "$share" ]; then mount_share "$(cat "$share")"; fi # a host that restarted has lost it
    if [ -d "$mounted" ]; then
      link_share
      export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$mounted/compiled}
    fi
    export VJAX_START_SECONDS=${VJAX_START_SECONDS:-600} # hosts come up one after another
    export VJAX_PREEMPTED_STATUS=${VJAX_PREEMPTED_STATUS:-75} # saved, and not at its end: start it again
    export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} # never a quiet run on the CPU
    if [ -n "$dry_run" ]; then run "$python" -m "$@"; else exec "$python" -m "$@"; fi
    ;;
  start)
    if running; then fail "A run is going on here already: run.sh NAME --stop ends it."; fi
    mkdir -p "$state"
    rm -f "$state/status" "$state/pid" "$state/stopped"
    # shellcheck disable=SC2016 # the inner shell expands it
    setsid nohup bash -c '
      tpu_scripts/host.sh exec "$@" & echo $! > .run/pid; wait $!; echo $? > .run/new; mv .run/new .run/status
    ' start "$@" >"$state/log" 2>&1 </dev/null &
    for ((look = 0; look < 100; look++)); do
      if [ -s "$state/pid" ]; then exit; fi
      sleep 0.1
    done
    fail "The run did not start: $(tail -n 5 "$state/log" 2>/dev/null)"
    ;;
  follow)
    [ -f "$state/pid" ] || fail "Nothing was started here."
    tail -n +1 -F --pid="$(cat "$state/pid")" "$state/log" 2>/dev/null
    ;;
  wait) # it prints the status, which not every gcloud hands on
    if [ ! -f "$state/pid" ]; then
      echo "vjax-status 1"
      fail "Nothing was started here."
    fi
    while running; do sleep 1; done
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -f "$state/status" ] || sleep 0.2; done
    status=$(cat "$state/status" 2>/dev/null || echo 137) # killed, with all that watched it
    case $status in # a SIGTERM that did not come from here is a preemption
      75 | 143) if [ -f "$state/stopped" ]; then status=143; else status=75; fi ;;
    esac
    if [ "$status" -ne 0 ]; then
      echo "$(hostname) ended with $status:" >&2
      tail -n 20 "$state/log" >&2
    fi
    echo "vjax-status $status"
    exit "$status"
    ;;
  stop)
    if running; then
      touch "$state/stopped"
      kill -TERM "$(cat "$state/pid")"
    fi
    ;;
  running) running ;;
  reached) # of the run that the log names: others share the bucket
    found=$(sed -n 's/^.* \(starting\|resuming\) at step \([0-9]*\) of .*, in \(.*\)$/\2 \3/p' "$state/log" | tail -n 1)
    [ -n "$found" ] || fail "The log names no run."
    began=${found%% *}
    last=$(find "${found#* }/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' ! -name '*[!0-9]*' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1) || true
    echo "$began ${last:-$began}"
    ;;
  clear)
    if running; then kill -TERM "$(cat "$state/pid")"; fi
    for ((second = 0; second < ${CLEAR_SECONDS:-120}; second++)); do
      if ! running; then exit; fi
      sleep 1
    done
    kill -KILL "$(cat "$state/pid")"
    ;;
  *) fail "install, exec, start, follow, wait or stop is needed, not ${action:-nothing}." ;;
esac
